"""Oracles that share no code with conservax: brute force, closed forms, finite differences.

A ``Program`` is straight-line code over exact numbers. Each of its operations says three things:
its value, its possible slopes at given operands (one row a choice: several rows only at an exact
tie), and the JAX expression it stands for. From these alone follow the JAX function, the set of all
gradients (every choice at every tie), and one-sided derivatives. To add an operation, add an entry.
"""

import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
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
    slopes: Callable[[Sequence[Fraction], Sequence[Fraction]], Sequence[Row]]
    jax: Callable[..., Any]
    constants: Callable[[], st.SearchStrategy[tuple]] = lambda: st.just(())
    shares: Callable[["Instruction"], Hashable] | None = None  # kinks that are one and the same


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

OPERATIONS: dict[str, Operation] = {
    "constant": Operation(
        0,
        lambda c: c,
        lambda v, c: [()],
        lambda c: jnp.asarray(_number(c)),
        lambda: st.tuples(_DYADIC),
    ),
    "add": Operation(2, lambda u, v: u + v, lambda v, c: [(1, 1)], lambda u, v: u + v),
    "sub": Operation(2, lambda u, v: u - v, lambda v, c: [(1, -1)], lambda u, v: u - v),
    "scale": Operation(
        1,
        lambda u, a: a * u,
        lambda v, c: [(c[0],)],
        lambda u, a: _number(a) * u,
        lambda: st.tuples(_DYADIC),
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
        lambda: st.sampled_from([(Fraction(-1), Fraction(0)), (Fraction(0), Fraction(1))]),
    ),
    "reduce_max": Operation(
        None, lambda *u: max(u), _extremum(max), lambda *u: jnp.max(jnp.stack(u))
    ),
    "reduce_min": Operation(
        None, lambda *u: min(u), _extremum(min), lambda *u: jnp.min(jnp.stack(u))
    ),
    "where": Operation(
        3,
        _where_value,
        _where_slopes,
        _where,
        lambda: st.tuples(st.sampled_from(sorted(_RELATIONS)), _DYADIC, _DYADIC),
        # every where that one comparison steers switches with it; > and <= are one comparison
        shares=lambda i: ("comparison", *i.operands[:2], i.constants[0] in (">", "<=")),
    ),
}
SMOOTH = ("constant", "add", "sub", "scale")
KINKS = tuple(sorted(set(OPERATIONS) - set(SMOOTH)))


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

    def jacobians(self, x: Sequence[Fraction]) -> np.ndarray:
        """The Jacobians of all choices at exact ties, one choice a kink: distinct, (V, m, n)."""
        values = self.registers(x)
        rows, kinks = [], {}
        for place, i in enumerate(self.instructions):
            operation = OPERATIONS[i.operation]
            rows.append(operation.slopes([values[o] for o in i.operands], i.constants))
            key = operation.shares(i) if operation.shares else place
            kinks[place] = (key, len(rows[-1]))
        ways = dict(kinks.values())
        found = set()
        for picks in itertools.product(*(range(w) for w in ways.values())):
            pick = dict(zip(ways, picks, strict=True))
            gradients: list[tuple] = [_one_hot(k, self.inputs) for k in range(self.inputs)]
            for place, i in enumerate(self.instructions):
                row = rows[place][pick[kinks[place][0]]]
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
            for i in self.instructions:
                out = OPERATIONS[i.operation].jax(*(values[o] for o in i.operands), *i.constants)
                values.append(jnp.asarray(out, x.dtype))
            return jnp.stack([values[o] for o in self.outputs])

        return fun

    def scanned(self, length: int) -> Callable[[jax.Array], jax.Array]:
        """``length`` steps of a program with as many outputs as inputs, by ``lax.scan``."""
        step = self.to_jax()
        return lambda x: jax.lax.scan(lambda c, _: (step(c), None), x, None, length=length)[0]

    def repeated(self, length: int) -> "Program":
        """The same ``length`` steps written out: the brute force of ``scanned``."""
        instructions: list[Instruction] = []
        current = tuple(range(self.inputs))
        for _ in range(length):
            names = list(current)
            for i in self.instructions:
                instructions.append(replace(i, operands=tuple(names[o] for o in i.operands)))
                names.append(self.inputs + len(instructions) - 1)
            current = tuple(names[o] for o in self.outputs)
        return Program(self.inputs, tuple(instructions), current)


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
    registers, left = inputs, kinks
    instructions: list[Instruction] = []
    for _ in range(draw(st.integers(2, length))):
        name = draw(st.sampled_from([o for o in operations if o in SMOOTH or left]))
        operation = OPERATIONS[name]
        arity = draw(st.integers(2, 3)) if operation.arity is None else operation.arity
        # later registers more often, so that kinks nest
        operand = st.integers(0, registers - 1) | st.integers(max(0, registers - 3), registers - 1)
        operands = tuple(draw(operand) for _ in range(arity))
        instruction = Instruction(name, operands, draw(operation.constants()))
        if instruction in instructions:  # the same expression twice is the same kink written twice
            continue
        instructions.append(instruction)
        registers += 1
        left -= name in KINKS
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
