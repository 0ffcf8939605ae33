"""Oracles that share no code with conservax: brute force, closed forms, finite differences.

A ``Program`` is straight-line code over exact numbers. Each of its operations says three things:
its value, its possible slopes at given operands (one row a choice: several rows only at an exact
tie), and the JAX expression it stands for. From these alone follow the JAX function, the set of all
gradients (every choice at every tie), and one-sided derivatives. To add an operation, add an entry;
one with several results (a sort) says all its choices at once, and an instruction picks an entry.
"""

import functools
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

Row = tuple[Fraction | int, ...]  # slopes of a result in its operands


@dataclass(frozen=True)
class Operation:
    """One kind of instruction: ``arity`` operands (None: two or more) and ``constants`` parameters.

    ``value(*operands, *constants)`` is exact; ``slopes(values, constants)`` lists the rows that the
    derivative can have there; ``jax(*operands, *constants)`` is the same expression in JAX.
    """

    arity: int | None
    value: Callable[..., Fraction]
    slopes: Callable[[Sequence[Fraction], Sequence[Any]], Sequence[Row]]
    jax: Callable[..., Any]
    constants: Callable[[int], st.SearchStrategy[tuple]] = lambda arity: st.just(())
    # kinks with equal keys are one and the same; which they are can depend on the operands' values
    shares: Callable[["Instruction", Sequence[Fraction]], Hashable] | None = None
    # ``jax`` returns a vector, computed once, of which the last constant picks an entry; its length
    # for so many operands and the other constants
    vector: Callable[..., int] | None = None


@dataclass(frozen=True)
class Instruction:
    """``operation(registers[operands], constants)``."""

    operation: str
    operands: tuple[int, ...]
    constants: tuple[Any, ...] = ()


def _one_hot(place: int, size: int) -> Row:
    return tuple(int(i == place) for i in range(size))


def _extremum(pick: Callable[..., Fraction]) -> Callable[[Sequence[Fraction], Any], Sequence[Row]]:
    def slopes(values: Sequence[Fraction], _: Any) -> Sequence[Row]:
        return [_one_hot(i, len(values)) for i, v in enumerate(values) if v == pick(values)]

    return slopes


def _at_zero(x: Fraction, below: Row, above: Row) -> Sequence[Row]:
    """Slopes of a kink at 0: the row below, the row above, or both."""
    return [below] * (x <= 0) + [above] * (x >= 0)


def _clip_slopes(values: Sequence[Fraction], bounds: Sequence[Fraction]) -> Sequence[Row]:
    (x,), (low, high) = values, bounds
    inside, outside = [(1,)] * (low <= x <= high), [(0,)] * (x <= low or x >= high)
    return inside + outside


def _select_slopes(values: Sequence[Fraction], slopes: Sequence[Fraction]) -> Sequence[Row]:
    (u,), (a, b, c) = values, slopes
    return _at_zero(u, (a,), (b,)) if u <= 0 else _at_zero(u - 1, (b,), (c,))


def _pieces(u: Fraction, fp: Sequence[Fraction]) -> list[tuple[Fraction, Fraction]]:
    """Linear interpolation at knots −1, 0, 1, constant beyond: (value, slope) of each piece that holds u."""
    segments = [(Fraction(k - 1), fp[k], fp[k + 1] - fp[k]) for k in (0, 1)]
    inside = [(f + (u - k) * s, s) for k, f, s in segments if k <= u <= k + 1]
    ends = [(fp[0], Fraction(0))] * (u <= -1) + [(fp[2], Fraction(0))] * (u >= 1)
    return inside + ends


_RELATIONS: dict[str, Callable[[Any, Any], Any]] = {
    ">": lambda u, v: u > v,
    ">=": lambda u, v: u >= v,
    "<": lambda u, v: u < v,
    "<=": lambda u, v: u <= v,
}


def _where(u: Any, v: Any, t: Any, relation: str, on_true: Any, on_false: Any) -> Any:
    """where(u ≷ v, t + w₁(u − v), t + w₂(u − v)): affine branches that agree at the switch."""
    return jnp.where(
        _RELATIONS[relation](u, v), t + _number(on_true) * (u - v), t + _number(on_false) * (u - v)
    )


def _where_value(u: Any, v: Any, t: Any, relation: str, on_true: Any, on_false: Any) -> Fraction:
    return t + (on_true if _RELATIONS[relation](u, v) else on_false) * (u - v)


def _where_slopes(values: Sequence[Fraction], constants: Sequence[Any]) -> Sequence[Row]:
    (u, v, _), (relation, on_true, on_false) = values, constants
    above, below = (on_true, on_false) if relation in (">", ">=") else (on_false, on_true)
    return _at_zero(u - v, (below, -below, 1), (above, -above, 1))


def _number(x: Any) -> float:
    return float(x)


_DYADIC = st.sampled_from([Fraction(n, 2) for n in (-4, -2, -1, 1, 2, 4)])


def _comparison(u: Hashable, v: Hashable, relation: str) -> Hashable:
    """What a comparison steers switches with it; > and <= are one comparison, >= and < another."""
    return ("comparison", u, v, relation in (">", "<="))


def _cond(u: Any, v: Any, t: Any, relation: str, on_true: Any, on_false: Any) -> Any:
    """The same as ``_where``, by ``lax.cond``."""
    return jax.lax.cond(
        _RELATIONS[relation](u, v),
        lambda: t + _number(on_true) * (u - v),
        lambda: t + _number(on_false) * (u - v),
    )


_STEERED: dict[str, Any] = {
    "arity": 3,
    "value": _where_value,
    "slopes": _where_slopes,
    "constants": lambda arity: st.tuples(st.sampled_from(sorted(_RELATIONS)), _DYADIC, _DYADIC),
    "shares": lambda i, values: _comparison(*i.operands[:2], i.constants[0]),
}

# Predicates of two numbers: how they read, their boundary m = 0, and the relation they compare with.
_PREDICATES: dict[str, tuple[Callable[[Any, Any], Any], str, str]] = {
    "and": (lambda p, q: (p > 0) & (q > 0), "min", ">"),
    "or": (lambda p, q: (p >= 0) | (q >= 0), "max", ">="),
    "not and": (lambda p, q: ~((p > 0) & (q > 0)), "min", ">"),
    "not or": (lambda p, q: ~((p < 0) | (q < 0)), "min", ">="),
}


def _compound_value(p: Any, q: Any, m: Any, t: Any, form: str, yes: Any, no: Any) -> Fraction:
    inverted = form == "not and"
    holds = (m >= 0 if _PREDICATES[form][2] == ">=" else m > 0) != inverted
    return t + (yes if holds else no) * m


def _compound_slopes(values: Sequence[Fraction], constants: Sequence[Any]) -> Sequence[Row]:
    (_, _, m, _), (form, yes, no) = values, constants
    above, below = (no, yes) if form == "not and" else (yes, no)
    return _at_zero(m, (0, 0, below, 1), (0, 0, above, 1))


def _compound_key(i: "Instruction", values: Sequence[Fraction]) -> Hashable:
    """Two active comparisons make one switch of their own; a single one is shared as ever."""
    (p, q), relation = i.operands[:2], _PREDICATES[i.constants[0]][2]
    active = {register for register in (p, q) if values[register] == 0}
    return _comparison(active.pop(), "zero", relation) if len(active) == 1 else i


def _vector(
    choices: Callable[..., Sequence[Sequence[Row]]],
    jax_vector: Callable[..., Any],
    constants: Callable[[int], st.SearchStrategy[tuple]],
    length: Callable[..., int] = lambda arity, *constants: arity,
) -> Operation:
    """``choices(values, *constants)``: for each choice a row for each entry, all of the right value."""

    def value(*arguments: Any) -> Fraction:
        operands = [a for a in arguments if isinstance(a, Fraction)]
        *rest, entry = arguments[len(operands) :]
        row = choices(operands, *rest)[0][entry]
        return sum((a * u for a, u in zip(row, operands, strict=True)), Fraction(0))

    return Operation(
        None,
        value,
        lambda values, c: [rows[c[-1]] for rows in choices(values, *c[:-1])],
        jax_vector,
        constants,
        shares=lambda i, values: (i.operation, i.operands, i.constants[:-1]),
        vector=length,
    )


def _orders(values: Sequence[Fraction], largest_first: bool) -> Sequence[Sequence[Row]]:
    """Every way to put tied entries in order."""
    size, sign = len(values), -1 if largest_first else 1
    ordered = sorted(sign * v for v in values)
    return [
        [_one_hot(place, size) for place in order]
        for order in itertools.permutations(range(size))
        if [sign * values[place] for place in order] == ordered
    ]


def _running(
    values: Sequence[Fraction], reverse: bool, pick: Callable[..., Fraction]
) -> Sequence[Sequence[Row]]:
    """A running extremum of two or three entries, whose tree of binary choices is a chain."""
    size = len(values)
    order = list(range(size))[:: -1 if reverse else 1]
    ways: list[list[int]] = [[order[0]]]
    for place in order[1:]:
        ways = [
            [*way, winner]
            for way in ways
            for winner in dict.fromkeys((way[-1], place))
            if values[winner] == pick(values[way[-1]], values[place])
        ]
    return [[_one_hot(place, size) for place in way[:: -1 if reverse else 1]] for way in ways]


def _pooled(
    values: Sequence[Fraction], width: int, pick: Callable[..., Fraction]
) -> Sequence[Sequence[Row]]:
    size = len(values)
    windows = [range(start, start + width) for start in range(size - width + 1)]
    winners = [[j for j in w if values[j] == pick(values[i] for i in w)] for w in windows]
    return [[_one_hot(j, size) for j in way] for way in itertools.product(*winners)]


def _pool(u: Sequence[Any], width: int, filler: float, combine: Any) -> Any:
    stacked = jnp.stack(u)
    start = np.asarray(filler, stacked.dtype)  # concrete, or JAX takes it for any reduction
    return jax.lax.reduce_window(stacked, start, combine, (width,), (1,), "VALID")


def _width_and_entry(arity: int) -> st.SearchStrategy[tuple]:
    return st.integers(2, arity).flatmap(
        lambda width: st.tuples(st.just(width), st.integers(0, arity - width))
    )


OPERATIONS: dict[str, Operation] = {
    "constant": Operation(
        0,
        lambda c: c,
        lambda v, c: [()],
        lambda c: jnp.asarray(_number(c)),
        lambda arity: st.tuples(_DYADIC),
    ),
    "add": Operation(2, lambda u, v: u + v, lambda v, c: [(1, 1)], lambda u, v: u + v),
    "sub": Operation(2, lambda u, v: u - v, lambda v, c: [(1, -1)], lambda u, v: u - v),
    "scale": Operation(
        1,
        lambda u, a: a * u,
        lambda v, c: [(c[0],)],
        lambda u, a: _number(a) * u,
        lambda arity: st.tuples(_DYADIC),
    ),
    "max": Operation(2, lambda u, v: max(u, v), _extremum(max), jnp.maximum),
    "min": Operation(2, lambda u, v: min(u, v), _extremum(min), jnp.minimum),
    "abs": Operation(1, abs, lambda v, c: _at_zero(v[0], (-1,), (1,)), jnp.abs),
    "relu": Operation(
        1, lambda u: max(u, Fraction(0)), lambda v, c: _at_zero(v[0], (0,), (1,)), jax.nn.relu
    ),
    "clip": Operation(
        1,
        lambda u, low, high: min(max(u, low), high),
        _clip_slopes,
        lambda u, low, high: jnp.clip(u, _number(low), _number(high)),
        lambda arity: st.sampled_from([(Fraction(-1), Fraction(0)), (Fraction(0), Fraction(1))]),
    ),
    "reduce_max": Operation(
        None, lambda *u: max(u), _extremum(max), lambda *u: jnp.max(jnp.stack(u))
    ),
    "reduce_min": Operation(
        None, lambda *u: min(u), _extremum(min), lambda *u: jnp.min(jnp.stack(u))
    ),
    "scatter_max": Operation(
        None,
        lambda *u: max(u),
        _extremum(max),
        lambda first, *u: jnp.stack([first]).at[jnp.zeros(len(u), int)].max(jnp.stack(u))[0],
    ),
    "interp": Operation(  # knots −1, 0, 1
        1,
        lambda u, *fp: _pieces(u, fp)[0][0],
        lambda values, fp: [(slope,) for _, slope in _pieces(values[0], fp)],
        lambda u, *fp: jnp.interp(u, jnp.array([-1.0, 0, 1]), jnp.array([*map(_number, fp)])),
        lambda arity: st.tuples(_DYADIC, _DYADIC, _DYADIC),
    ),
    "select": Operation(  # slope a below 0, b from 0 to 1, c above
        1,
        lambda u, a, b, c: a * u if u < 0 else b * u if u < 1 else b + c * (u - 1),
        _select_slopes,
        lambda u, a, b, c: jnp.select(
            [u < 0, u < 1],
            [_number(a) * u, _number(b) * u],
            _number(b) + _number(c) * (u - 1),
        ),
        lambda arity: st.tuples(_DYADIC, _DYADIC, _DYADIC),
        shares=lambda i, values: _comparison(
            i.operands[0], "zero" if values[i.operands[0]] == 0 else "one", "<"
        ),
    ),
    "where": Operation(jax=_where, **_STEERED),
    "cond": Operation(jax=_cond, **_STEERED),
    "mask": Operation(  # (u ≷ v) * a(u − v) + t
        3,
        lambda u, v, t, relation, a: t + (a * (u - v) if _RELATIONS[relation](u, v) else 0),
        lambda values, c: _where_slopes(values, (*c, Fraction(0))),
        lambda u, v, t, relation, a: _RELATIONS[relation](u, v) * (_number(a) * (u - v)) + t,
        lambda arity: st.tuples(st.sampled_from(sorted(_RELATIONS)), _DYADIC),
        shares=lambda i, values: _comparison(*i.operands[:2], i.constants[0]),
    ),
    "sign": Operation(
        1,
        lambda u, a: a * abs(u),
        lambda v, c: _at_zero(v[0], (-c[0],), (c[0],)),
        lambda u, a: jnp.sign(u) * (_number(a) * u),
        lambda arity: st.tuples(_DYADIC),
        shares=lambda i, values: ("sign", *i.operands),
    ),
    "compound": Operation(  # where(p > 0 and q > 0, t + a m, t + b m) with m = min(p, q)
        4,
        _compound_value,
        _compound_slopes,
        lambda p, q, m, t, form, yes, no: jnp.where(
            _PREDICATES[form][0](p, q), t + _number(yes) * m, t + _number(no) * m
        ),
        lambda arity: st.tuples(st.sampled_from(sorted(_PREDICATES)), _DYADIC, _DYADIC),
        shares=_compound_key,
    ),
    "sort": _vector(
        lambda values: _orders(values, largest_first=False),
        lambda *u: jnp.sort(jnp.stack(u)),
        lambda arity: st.tuples(st.integers(0, arity - 1)),
    ),
    "top_k": _vector(
        lambda values, k: [rows[:k] for rows in _orders(values, largest_first=True)],
        lambda *arguments: jax.lax.top_k(jnp.stack(arguments[:-1]), arguments[-1])[0],
        lambda arity: st.integers(1, arity).flatmap(
            lambda k: st.tuples(st.just(k), st.integers(0, k - 1))
        ),
        lambda arity, k: k,
    ),
    "cummax": _vector(
        lambda values, reverse: _running(values, reverse, max),
        lambda *a: jax.lax.cummax(jnp.stack(a[:-1]), reverse=a[-1]),
        lambda arity: st.tuples(st.booleans(), st.integers(0, arity - 1)),
    ),
    "cummin": _vector(
        lambda values, reverse: _running(values, reverse, min),
        lambda *a: jax.lax.cummin(jnp.stack(a[:-1]), reverse=a[-1]),
        lambda arity: st.tuples(st.booleans(), st.integers(0, arity - 1)),
    ),
    "max_pool": _vector(
        lambda values, width: _pooled(values, width, max),
        lambda *a: _pool(a[:-1], a[-1], -jnp.inf, jax.lax.max),
        _width_and_entry,
        lambda arity, width: arity - width + 1,
    ),
    "min_pool": _vector(
        lambda values, width: _pooled(values, width, min),
        lambda *a: _pool(a[:-1], a[-1], jnp.inf, jax.lax.min),
        _width_and_entry,
        lambda arity, width: arity - width + 1,
    ),
}
SMOOTH = ("constant", "add", "sub", "scale")
KINKS = tuple(sorted(set(OPERATIONS) - set(SMOOTH)))


def _ways(rows: Sequence[Sequence[Row]], kinks: Sequence[Hashable]) -> dict[Hashable, int]:
    """The number of choices at each kink: those who share it have as many, or do not feel it."""
    ways: dict[Hashable, int] = {}
    for choices, kink in zip(rows, kinks, strict=True):
        assert len({len(choices), ways.get(kink, 1), 1}) <= 2
        ways[kink] = max(ways.get(kink, 1), len(choices))
    return ways


@dataclass(frozen=True)
class Program:
    """Straight-line code: registers are the inputs, then one for each instruction."""

    inputs: int
    instructions: tuple[Instruction, ...]
    outputs: tuple[int, ...]

    def registers(self, x: Sequence[Fraction]) -> list[Fraction]:
        """Every register's exact value."""
        values = [Fraction(v) for v in x]
        for i in self.instructions:
            values.append(
                OPERATIONS[i.operation].value(*(values[o] for o in i.operands), *i.constants)
            )
        return values

    def __call__(self, x: Sequence[Fraction]) -> np.ndarray:
        """The exact value, as a float array (m,)."""
        values = self.registers(x)
        return np.array([float(values[o]) for o in self.outputs])

    def _ties(self, values: Sequence[Fraction]) -> tuple[list[Sequence[Row]], list[Hashable]]:
        """The possible slopes of each instruction, and the kink that decides among them."""
        rows, kinks = [], []
        for place, i in enumerate(self.instructions):
            operation = OPERATIONS[i.operation]
            rows.append(operation.slopes([values[o] for o in i.operands], i.constants))
            kinks.append(operation.shares(i, values) if operation.shares else place)
        return rows, kinks

    def choices(self, x: Sequence[Fraction]) -> int:
        """How many ways there are to choose at all ties."""
        return prod(_ways(*self._ties(self.registers(x))).values())

    def jacobians(self, x: Sequence[Fraction]) -> np.ndarray:
        """The Jacobians of all choices at exact ties, one choice a kink: distinct, (V, m, n)."""
        rows, kinks = self._ties(self.registers(x))
        ways = _ways(rows, kinks)
        found = set()
        for picks in itertools.product(*map(range, ways.values())):
            pick = dict(zip(ways, picks, strict=True))
            gradients: list[tuple] = [_one_hot(k, self.inputs) for k in range(self.inputs)]
            for i, choices, kink in zip(self.instructions, rows, kinks, strict=True):
                row = choices[pick[kink] if len(choices) > 1 else 0]
                operands = [gradients[o] for o in i.operands]
                gradients.append(
                    tuple(
                        sum(a * g[k] for a, g in zip(row, operands, strict=True))
                        for k in range(self.inputs)
                    )
                )
            found.add(tuple(gradients[o] for o in self.outputs))
        return as_set(
            np.array(sorted(found), dtype=float).reshape(len(found), len(self.outputs), self.inputs)
        )

    def directional(self, x: Sequence[Fraction], v: Sequence[Fraction]) -> np.ndarray:
        """The one-sided derivative f′(x; v), exact: no kink lies within so small a step."""
        t = Fraction(1, 1 << 60)
        moved = [Fraction(a) + t * Fraction(b) for a, b in zip(x, v, strict=True)]
        before, after = self.registers(x), self.registers(moved)
        return np.array([float((after[o] - before[o]) / t) for o in self.outputs])

    def to_jax(self) -> Callable[[jax.Array], jax.Array]:
        """The same program as a JAX function from (n,) to (m,)."""

        def fun(x: jax.Array) -> jax.Array:
            values = [x[k] for k in range(self.inputs)]
            vectors: dict[Hashable, Any] = {}
            for i in self.instructions:
                operation, operands = OPERATIONS[i.operation], [values[o] for o in i.operands]
                if operation.vector:
                    *rest, entry = i.constants
                    key = (i.operation, i.operands, *rest)
                    if key not in vectors:
                        vectors[key] = operation.jax(*operands, *rest)
                    out = vectors[key][entry]
                else:
                    out = operation.jax(*operands, *i.constants)
                values.append(jnp.asarray(out, x.dtype))
            return jnp.stack([values[o] for o in self.outputs])

        return fun

    def scanned(self, *lengths: int) -> Callable[[jax.Array], jax.Array]:
        """Steps of a program with as many outputs as inputs, by ``lax.scan``: one loop a length, nested."""
        if not lengths:
            return self.to_jax()
        step, length = self.scanned(*lengths[1:]), lengths[0]
        return lambda x: jax.lax.scan(lambda c, _: (step(c), None), x, None, length=length)[0]

    def repeated(self, length: int) -> "Program":
        """The same ``length`` steps written out: the brute force of ``scanned``."""
        whole = self
        for _ in range(length - 1):
            whole = whole.then(self)
        return whole

    def then(self, after: "Program") -> "Program":
        """Both programs written out, the second on the outputs of the first."""
        instructions, names = list(self.instructions), list(self.outputs)
        for i in after.instructions:
            instructions.append(replace(i, operands=tuple(names[o] for o in i.operands)))
            names.append(self.inputs + len(instructions) - 1)
        return Program(self.inputs, tuple(instructions), tuple(names[o] for o in after.outputs))


@st.composite
def programs(
    draw: st.DrawFn,
    inputs: int = 2,
    outputs: int = 1,
    length: int = 7,
    kinks: int = 5,
    operations: Sequence[str] = tuple(OPERATIONS),
) -> Program:
    """Programs with up to ``kinks`` nonsmooth instructions, nested and sharing sub-expressions."""
    left = kinks
    instructions: list[Instruction] = []
    varied = list(range(inputs))  # registers that the inputs move

    def emit(name: str, operands: Sequence[int], constants: tuple[Any, ...] = ()) -> int:
        """The register of an instruction; the same twice would be one kink written twice."""
        instruction = Instruction(name, tuple(operands), constants)
        if instruction not in instructions:
            instructions.append(instruction)
            if any(o in varied for o in operands):
                varied.append(inputs + len(instructions) - 1)
        return inputs + instructions.index(instruction)

    for _ in range(draw(st.integers(2, length))):
        name = draw(st.sampled_from([o for o in operations if o in SMOOTH or left]))
        operation, registers = OPERATIONS[name], inputs + len(instructions)
        arity = draw(st.integers(2, 3)) if operation.arity is None else operation.arity
        # later registers more often, so that kinks nest
        operand = st.integers(0, registers - 1) | st.integers(max(0, registers - 3), registers - 1)
        operands = [draw(operand) for _ in range(arity)]
        constants = draw(operation.constants(arity))
        left -= name in KINKS
        if name == "compound":  # two predicates that can switch, and what vanishes where they do
            pair = draw(st.permutations(varied))[:2]
            boundary = emit(_PREDICATES[constants[0]][1], pair)
            left = max(0, left - 1)
            operands = [*pair, boundary, operands[-1]]
        emit(name, operands, constants)
        if operation.vector and draw(st.booleans()):  # another entry of the same vector
            last = operation.vector(arity, *constants[:-1]) - 1
            emit(name, operands, (*constants[:-1], draw(st.integers(0, last))))
    registers = inputs + len(instructions)
    first = max(0, registers - 1 - 2 * outputs)
    chosen = [registers - 1, *(draw(st.integers(first, registers - 1)) for _ in range(outputs - 1))]
    return Program(inputs, tuple(instructions), tuple(chosen))


def points(size: int) -> st.SearchStrategy[tuple[Fraction, ...]]:
    """Points at which ties are common and exact."""
    coordinate = st.just(Fraction(0)) | st.sampled_from([Fraction(n, 2) for n in range(-3, 4)])
    return st.tuples(*[coordinate] * size)


def at(x: Sequence[Fraction], dtype: Any = np.float64) -> jax.Array:
    """A rational point as a JAX array; the points used here are exact in every dtype."""
    return jnp.asarray([float(v) for v in x], dtype)


def as_set(matrices: Any, digits: int = 9) -> np.ndarray:
    """The distinct matrices of a stack, in one order."""
    stack = np.asarray(matrices, dtype=float)
    rounded = np.round(stack.reshape(len(stack), -1), digits) + 0.0
    return np.unique(rounded, axis=0).reshape(-1, *stack.shape[1:])


@functools.lru_cache(maxsize=8)
def _derivatives(fun: Callable[..., Any]) -> Callable[..., Any]:
    """Derivatives at a stack of points, compiled once for all stacks of a shape."""
    return on_numpy(jax.vmap(jax.jacobian(fun)))


def limits(fun, x, count: int = 600, radius: float = 1e-7) -> np.ndarray:
    """Derivatives at random points next to x, without near-duplicates: the limits that x sees."""
    rng = np.random.default_rng(0)
    steps = radius * rng.normal(size=(count, *np.shape(x)))
    found = _derivatives(fun)(np.asarray(x) + steps).reshape(count, -1, max(1, np.size(x)))
    return found[np.unique(np.round(found, 4), axis=0, return_index=True)[1]]


def assert_same_set(actual: Any, expected: Any, atol: float = 1e-8) -> None:
    """Equal as finite sets of matrices (or numbers): each within ``atol`` of one of the other."""
    a, b = (np.asarray(s, dtype=float) for s in (actual, expected))
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    assert a.shape[1] == b.shape[1], f"entries of size {a.shape[1]} against {b.shape[1]}"
    gaps = np.abs(a[:, None, :] - b[None, :, :]).max(axis=-1, initial=0.0)
    spurious, missing = a[gaps.min(axis=1) > atol], b[gaps.min(axis=0) > atol]
    assert spurious.size == missing.size == 0, f"spurious {spurious}, missing {missing}"


def extreme_selections(ways: Sequence[int]) -> Iterator[np.ndarray]:
    """All 0/1 selections of kinks with these numbers of ways (1: scalar, r: an r-way tie)."""
    choices = [[(0.0,), (1.0,)] if r == 1 else [tuple(row) for row in np.eye(r)] for r in ways]
    for pick in itertools.product(*choices):
        yield np.array(list(itertools.chain.from_iterable(pick)))


def central_difference(fun: Callable[[np.ndarray], Any], x: Any, step: float = 1e-5) -> np.ndarray:
    """The Jacobian (m, n) of a smooth function by central differences, error about step²."""
    x = np.asarray(x, dtype=float)
    columns = []
    for k in range(x.size):
        shift = np.zeros(x.size)
        shift[k] = step
        shift = shift.reshape(x.shape)
        columns.append(
            (np.ravel(np.asarray(fun(x + shift))) - np.ravel(np.asarray(fun(x - shift))))
            / (2 * step)
        )
    return np.stack(columns, axis=-1)


def on_numpy(fun: Callable[..., Any]) -> Callable[..., Any]:
    """``fun`` under jit with NumPy results: an operation on JAX arrays outside jit is a compilation."""
    jitted = jax.jit(fun)
    return lambda *args: jax.tree.map(np.asarray, jitted(*args))


def soft_threshold(z: Any, level: Any) -> Any:
    """The proximal map of level·|·| in the form z − clip(z, ±level), NumPy or JAX."""
    module = jnp if isinstance(z, jax.Array) or isinstance(level, jax.Array) else np
    return z - module.clip(z, -level, level)


def line_of(marker: str, file: str) -> int:
    """The line of a file that ends in ``# marker``: where an error must point."""
    with open(file) as text:
        lines = [n for n, line in enumerate(text, 1) if line.rstrip().endswith(f"# {marker}")]
    assert len(lines) == 1, f"{len(lines)} lines end in '# {marker}'"
    return lines[0]
