"""Whether the pieces of a program agree where a comparison switches between them.

Every value of a program is an expression over its inputs, equal expressions being one number of the
store. At the switch of ``u > c`` the value u is c: both branches are rewritten with u := c, entry by
entry, and simplified over the reals; the program is continuous there if one expression is left.
"""

import itertools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..tracing import smooth

_MOVES = {"broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose", "rev", "slice"}
_SAME = {"convert_element_type", "copy", "copy_p", "stop_gradient", "device_put", "name",
         "sharding_constraint", "optimization_barrier", "reduce_precision"}  # fmt: skip
_COMMUTES = {"add", "add_any", "mul", "max", "min", "and", "or", "eq", "ne"}
_NONNEGATIVE = {
    "exp",
    "exp2",
    "abs",
    "square",
    "sqrt",
    "logistic",
    "cosh",
    "erfc",
    "conservax.norm",
}
_DEEPEST = 400
_STATES = ("over", "under", "on")
# on which sides of left = right each comparison holds
_TRUTHS = {
    "gt": {"over"},
    "ge": {"over", "on"},
    "lt": {"under"},
    "le": {"under", "on"},
    "eq": {"on"},
    "ne": {"over", "under"},
}
_MIRROR = {"gt": "lt", "lt": "gt", "ge": "le", "le": "ge", "eq": "eq", "ne": "ne"}


class Expression(NamedTuple):
    """An operation on numbered expressions; ``constant`` is the value of all its entries, if known."""

    operation: str
    parameters: Hashable
    operands: tuple[int, ...]
    shape: tuple[int, ...]
    constant: float | None = None


class Switch(NamedTuple):
    """Where a program may jump: where expression ``left`` equals expression ``right``."""

    left: int
    right: int
    place: int  # the number of the fault that it is if the pieces differ


def _power(x: float, k: Any) -> float:
    return float(x ** int(k))


_FOLDS: dict[str, Callable[..., Any]] = {
    "add": lambda x, y: x + y,
    "add_any": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "neg": lambda x: -x,
    "max": max,
    "min": min,
    "abs": abs,
    "square": lambda x: x * x,
    "sqrt": math.sqrt,
    "exp": math.exp,
    "log": math.log,
    "log1p": math.log1p,
    "expm1": math.expm1,
    "tanh": math.tanh,
    "sin": math.sin,
    "cos": math.cos,
    "atan": math.atan,
    "erf": math.erf,
    "pow": math.pow,
    "sign": lambda x: float(np.sign(x)),
    "floor": math.floor,
    "ceil": math.ceil,
    "logistic": lambda x: 1 / (1 + math.exp(-x)),
    "gt": lambda x, y: float(x > y),
    "ge": lambda x, y: float(x >= y),
    "lt": lambda x, y: float(x < y),
    "le": lambda x, y: float(x <= y),
    "eq": lambda x, y: float(x == y),
    "ne": lambda x, y: float(x != y),
    "and": lambda x, y: float(bool(x) and bool(y)),
    "or": lambda x, y: float(bool(x) or bool(y)),
    "not": lambda x: float(not x),
}


class Expressions:
    """A store in which equal expressions have equal numbers."""

    def __init__(self, precision: float) -> None:
        self._numbers: dict[Expression, int] = {}
        self._all: list[Expression] = []
        self._fresh = itertools.count()
        self._round_off = 16 * precision

    def __getitem__(self, number: int) -> Expression:
        return self._all[number]

    def _number(self, expression: Expression) -> int:
        if expression not in self._numbers:
            self._numbers[expression] = len(self._all)
            self._all.append(expression)
        return self._numbers[expression]

    def opaque(self, shape: tuple[int, ...]) -> int:
        """A value of which nothing is known but its shape."""
        return self._number(Expression("opaque", next(self._fresh), (), shape))

    def constant(self, value: float, shape: tuple[int, ...]) -> int:
        """An array whose entries all have one value."""
        return self._number(Expression("constant", None, (), shape, float(value)))

    def array(self, value: Any) -> int:
        """A known array: a constant if its entries are equal."""
        array = np.asarray(value)
        numeric = array.dtype.kind in "biuf" or array.dtype.name == "bfloat16"
        if numeric and array.size and np.all(array == array.flat[0]):
            return self.constant(float(array.flat[0]), array.shape)
        if numeric and array.size <= 1024:  # by value: a literal is made anew at each use
            key = (str(array.dtype), array.tobytes())
            return self._number(Expression("array", key, (), array.shape))
        return self._number(Expression("array", id(value), (), array.shape))

    def make(
        self, operation: str, parameters: Hashable, operands: Sequence[int], shape: tuple[int, ...]
    ) -> int:
        """The number of an operation's result, simplified over the reals."""
        known = [self._all[o].constant for o in operands]
        if operation in _SAME:
            return operands[0]
        if operation in _MOVES:
            return self._moved(operation, parameters, operands, shape, known)
        folded = self._folded(operation, parameters, known)
        if folded is not None:
            return self.constant(folded, shape)
        simple = self._simplified(operation, operands, known, shape)
        if simple is not None:
            return simple
        if operation in _COMMUTES:
            operands = sorted(operands)
        return self._number(Expression(operation, parameters, tuple(operands), shape))

    def _folded(
        self, operation: str, parameters: Any, known: Sequence[float | None]
    ) -> float | None:
        if not known or any(k is None for k in known):
            return None
        try:
            if operation == "integer_pow":
                return _power(known[0], parameters)  # pyright: ignore[reportArgumentType]
            fold = _FOLDS.get(operation)
            return None if fold is None else float(fold(*known))
        except (ValueError, ZeroDivisionError, OverflowError):
            return None

    def _simplified(
        self, operation: str, operands: Sequence[int], known: Sequence[Any], shape: tuple[int, ...]
    ) -> int | None:
        """The few laws of arithmetic that branches written with care need."""
        alike = [self._all[o].shape == shape for o in operands]
        if operation in ("add", "add_any"):
            for i in (0, 1):
                if known[i] == 0 and alike[1 - i]:
                    return operands[1 - i]
        elif operation == "sub":
            if operands[0] == operands[1]:
                return self.constant(0.0, shape)
            if known[1] == 0 and alike[0]:
                return operands[0]
            if known[0] == 0:
                return self.make("neg", None, [operands[1]], shape)
        elif operation == "mul":
            for i in (0, 1):
                if known[i] == 0:
                    return self.constant(0.0, shape)
                if known[i] == 1 and alike[1 - i]:
                    return operands[1 - i]
                if known[i] == -1 and alike[1 - i]:
                    return self.make("neg", None, [operands[1 - i]], shape)
        elif operation == "div":
            if known[1] == 1 and alike[0]:
                return operands[0]
            if known[0] == 0:
                return self.constant(0.0, shape)
        elif operation == "neg":
            inner = self._all[operands[0]]
            if inner.operation == "neg":
                return inner.operands[0]
        elif operation in ("max", "min"):
            return self._extreme(operation, operands, known, alike)
        elif operation in ("eq", "ge", "le") and operands[0] == operands[1]:
            return self.constant(1.0, shape)
        elif operation in ("ne", "gt", "lt") and operands[0] == operands[1]:
            return self.constant(0.0, shape)
        elif operation == "is_finite":
            return self.constant(1.0, shape)
        elif operation == "abs" and self._all[operands[0]].operation == "abs":
            return operands[0]
        elif operation in ("and", "or"):
            for i in (0, 1):
                if known[i] is not None and alike[1 - i]:
                    keeps = bool(known[i]) == (operation == "and")
                    return operands[1 - i] if keeps else self.constant(float(known[i]), shape)
        elif operation == "select_n":
            _, *cases = operands
            if known[0] is not None and 0 <= int(known[0]) < len(cases):
                return cases[int(known[0])]
            if len(set(cases)) == 1:
                return cases[0]
        return None

    def _extreme(
        self, operation: str, operands: Sequence[int], known: Sequence[Any], alike: Sequence[bool]
    ) -> int | None:
        """max(u, u), and max(u, 0) or min(u, 0) of a u whose sign shows."""
        if operands[0] == operands[1]:
            return operands[0]
        for i in (0, 1):
            if known[i] != 0 or not alike[1 - i]:
                continue
            other = operands[1 - i]
            e = self._all[other]
            down = e.operation == "neg" and self._nonnegative(e.operands[0])
            up = self._nonnegative(other)
            if down or up:
                larger = up == (operation == "max")
                return other if larger else self.constant(0.0, e.shape)
        return None

    def _nonnegative(self, number: int, depth: int = 0) -> bool:
        """Whether the expression shows that it is ≥ 0 everywhere."""
        e = self._all[number]
        if e.constant is not None:
            return e.constant >= 0
        if e.operation in _NONNEGATIVE or depth > 20:
            return e.operation in _NONNEGATIVE
        if e.operation in ("add", "add_any", "mul", "max", "min", "div", *_MOVES):
            return all(self._nonnegative(o, depth + 1) for o in e.operands)
        return False

    def _moved(
        self,
        operation: str,
        parameters: Hashable,
        operands: Sequence[int],
        shape: tuple[int, ...],
        known: Sequence[float | None],
    ) -> int:
        """Entries moved about: of a constant it is one, of an operation entry by entry one of moved ones."""
        inner = self._all[operands[0]]
        if known[0] is not None:
            return self.constant(known[0], shape)
        if inner.shape == shape and operation in ("broadcast_in_dim", "reshape", "expand_dims"):
            return operands[0]
        if inner.operation == "broadcast_in_dim":
            origin = self._all[inner.operands[0]]
            if origin.shape == shape and math.prod(shape) == math.prod(inner.shape):
                return inner.operands[0]
            if origin.shape == ():
                return self.spread(inner.operands[0], shape)
            if operation == "broadcast_in_dim":
                dims = tuple(parameters[1][d] for d in inner.parameters[1])  # pyright: ignore[reportIndexIssue]
                return self.make(operation, (shape, dims), [inner.operands[0]], shape)
        if inner.shape == ():
            operation, parameters = "broadcast_in_dim", (shape, ())
        through = inner.operation in smooth.ELEMENTWISE and all(
            self._all[o].shape == inner.shape or self._all[o].constant is not None
            for o in inner.operands
        )
        if through:
            moved = [self._moved_operand(operation, parameters, o, shape) for o in inner.operands]
            return self.make(inner.operation, inner.parameters, moved, shape)
        return self._number(Expression(operation, parameters, tuple(operands), shape))

    def spread(self, number: int, shape: tuple[int, ...]) -> int:
        """An operand in the shape of the others: scalars, and axes of length 1, are repeated."""
        own = self._all[number].shape
        if own == shape:
            return number
        dims = tuple(range(len(shape) - len(own), len(shape)))
        return self.make("broadcast_in_dim", (shape, dims), [number], shape)

    def _moved_operand(
        self, operation: str, parameters: Hashable, operand: int, shape: tuple[int, ...]
    ) -> int:
        constant = self._all[operand].constant
        if constant is not None:
            return self.constant(constant, shape)
        return self.make(operation, parameters, [operand], shape)

    def substituted(self, number: int, known: Mapping[int, int], switch: Switch, state: str) -> int:
        """The expression on one side of a switch: followed through operations entry by entry.

        ``state`` is "over" (left > right), "under" or "on" the switch. Any other comparison that comes
        out as a tie is left open: its side is not known.
        """
        memo = dict(known)

        def decided(e: Expression) -> int | None:
            at_zero = self._all[switch.right].constant == 0
            if e.operation == "sign" and at_zero and e.operands[0] == switch.left:
                return self.constant({"over": 1.0, "under": -1.0, "on": 0.0}[state], e.shape)
            if e.operation not in _TRUTHS or len(e.operands) != 2:
                return None
            pair = (switch.left, switch.right)
            if e.operands == pair:
                return self.constant(float(state in _TRUTHS[e.operation]), e.shape)
            if e.operands == pair[::-1]:
                return self.constant(float(state in _TRUTHS[_MIRROR[e.operation]]), e.shape)
            return None

        def visit(n: int, depth: int) -> int:
            if n in memo:
                return memo[n]
            e = self._all[n]
            result = decided(e)
            if result is None:
                result = n
                if e.operands and e.operation in smooth.ELEMENTWISE and depth < _DEEPEST:
                    operands = [visit(o, depth + 1) for o in e.operands]
                    if operands != list(e.operands):
                        result = self.opaque(e.shape)
                        if not self._ties(e.operation, operands):
                            result = self.make(e.operation, e.parameters, operands, e.shape)
            memo[n] = result
            return result

        return visit(number, 0)

    def _ties(self, operation: str, operands: Sequence[int]) -> bool:
        """Whether a comparison, or a step function, stands exactly at its own switch."""
        known = [self._all[o].constant for o in operands]
        if operation in _TRUTHS:
            return operands[0] == operands[1] or (known[0] is not None and known[0] == known[1])
        if operation == "sign":
            return known[0] == 0
        return operation in ("floor", "ceil", "round", "rem")

    def equal(self, first: int, second: int) -> bool:
        """Whether two expressions are one, constants up to the round-off of the user's precision."""
        if first == second:
            return True
        a, b = self._all[first], self._all[second]
        if a.constant is not None and b.constant is not None:
            size = max(abs(a.constant), abs(b.constant))
            return abs(a.constant - b.constant) <= self._round_off * size
        alike = (a.operation, a.parameters, a.shape) == (b.operation, b.parameters, b.shape)
        if not alike or not a.operands or len(a.operands) != len(b.operands):
            return False
        return all(self.equal(x, y) for x, y in zip(a.operands, b.operands, strict=True))

    def continuous(self, switch: Switch, number: int) -> bool:
        """Whether an expression has one value on both sides of a switch, and on it."""
        return all(
            self.equal(sides[0], other)
            for known in self._at(switch)
            for sides in [[self.substituted(number, known, switch, s) for s in _STATES]]
            for other in sides[1:]
        )

    def _at(self, switch: Switch) -> list[dict[int, int]]:
        """What is known at the switch: in each of the cases, which expression is which."""
        left, right = switch.left, switch.right
        if self._all[right].constant is None:
            return [{left: right}]
        cases: list[dict[int, int]] = []
        self._solve(left, self._all[right].constant or 0.0, {}, cases)
        return cases

    def _solve(self, number: int, value: float, known: dict[int, int], cases: list[Any]) -> None:
        """Follow ``number = value`` back to what it is made of, as far as that is unique or two-fold."""
        e = self._all[number]
        known = {**known, number: self.constant(value, e.shape)}
        operands = e.operands
        constants = [self._all[o].constant for o in operands]
        inner: list[tuple[int, float]] = []
        if e.operation == "neg":
            inner = [(operands[0], -value)]
        elif e.operation == "abs" and value >= 0:
            inner = [(operands[0], s * value) for s in ((1, -1) if value else (1,))]
        elif e.operation in ("add", "add_any") and (constants[0] is None) != (constants[1] is None):
            i = 0 if constants[0] is None else 1
            inner = [(operands[i], value - (constants[1 - i] or 0.0))]
        elif e.operation == "sub" and (constants[0] is None) != (constants[1] is None):
            if constants[0] is None:
                inner = [(operands[0], value + (constants[1] or 0.0))]
            else:
                inner = [(operands[1], constants[0] - value)]
        elif e.operation == "mul" and (constants[0] is None) != (constants[1] is None):
            i = 0 if constants[0] is None else 1
            factor = constants[1 - i]
            if factor:
                inner = [(operands[i], value / factor)]
        elif e.operation == "div" and constants[0] is None and constants[1]:
            inner = [(operands[0], value * constants[1])]
        elif e.operation in ("square",) and value >= 0:
            root = math.sqrt(value)
            inner = [(operands[0], s * root) for s in ((1, -1) if value else (1,))]
        elif e.operation == "sub" and value == 0:  # two expressions are equal
            known[operands[0]] = operands[1]
        if not inner:
            cases.append(known)
        for operand, at in inner:
            self._solve(operand, at, known, cases)
