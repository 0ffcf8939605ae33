"""One exception for each thing a user can do something about."""


class ConservaxError(Exception):
    """Base class: catch this to catch everything conservax raises on purpose."""


class InvalidInputError(ConservaxError, ValueError):
    """An argument has the wrong shape, dtype or value (NaN, infinity); the message names it."""


class NotARootError(ConservaxError, ValueError):
    """The point handed over does not satisfy ``optimality_fun(sol, *args) == 0``."""


class NotConvergedError(ConservaxError, RuntimeError):
    """A solver stopped before it reached its tolerance."""


class InfeasibleError(ConservaxError, ValueError):
    """The program has no feasible point."""


class UnboundedError(ConservaxError, ValueError):
    """The program's objective is unbounded below on the feasible set."""


class NotUniqueError(ConservaxError, ValueError):
    """The solution is not unique, so the solution map has no derivative to return."""


class SingularError(ConservaxError, ArithmeticError):
    """A linear system that the implicit function theorem must solve is singular."""


class NotLipschitzError(ConservaxError, ValueError):
    """The program is continuous but not locally Lipschitz here: its slopes are unbounded."""


class DiscontinuousError(ConservaxError, ValueError):
    """The program jumps here, so that no conservative Jacobian exists."""


class UnsupportedOperationError(ConservaxError, NotImplementedError):
    """The program executes an operation that the kink table does not know."""


class TooManyKinksError(ConservaxError, ValueError):
    """More kinks are active than the question asked can enumerate."""


class NotPolyhedralError(ConservaxError, ValueError):
    """The set is no polytope, so that it has no finite list of vertices."""


class MissingPackageError(ConservaxError, ImportError):
    """An optional package is needed; the message says how to install it."""


class SelectionError(ConservaxError, ValueError):
    """A selection names no kink of this program, has the wrong length, or leaves [0, 1]."""
