"""Differentiate through anything nonsmooth, and know when to trust the answer."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import (
        calculus,
        equilibrium,
        errors,
        flows,
        invertibility,
        iterates,
        programs,
        projections,
        sparse,
        stochastic,
    )
    from .calculus import (
        ConservativeJacobian,
        Definability,
        Kink,
        conservative_jacobian,
        definability,
        norm,
        select,
        sites,
    )
    from .implicit import (
        CheckReport,
        Monitor,
        Observation,
        argmin,
        check,
        custom_fixed_point,
        custom_root,
        implicit_jacobian,
        inverse_jacobian,
        monitor,
        polish,
        root_jvp,
        root_vjp,
    )
    from .invertibility import Certificate, Verdict, Witness
    from .minimisers import GoldsteinCertificate, Minimum, minimise
    from .operators import proximal
    from .values import value

__all__ = [
    "Certificate",
    "CheckReport",
    "ConservativeJacobian",
    "Definability",
    "GoldsteinCertificate",
    "Kink",
    "Minimum",
    "Monitor",
    "Observation",
    "Verdict",
    "Witness",
    "argmin",
    "calculus",
    "check",
    "conservative_jacobian",
    "custom_fixed_point",
    "custom_root",
    "definability",
    "equilibrium",
    "errors",
    "flows",
    "implicit_jacobian",
    "inverse_jacobian",
    "invertibility",
    "iterates",
    "minimise",
    "monitor",
    "norm",
    "polish",
    "programs",
    "projections",
    "proximal",
    "root_jvp",
    "root_vjp",
    "select",
    "sites",
    "sparse",
    "stochastic",
    "value",
]

# Imported when they are first used, so that the command line answers before JAX is there.
_NAMES = {
    "calculus": "ConservativeJacobian Definability Kink conservative_jacobian definability norm select sites",
    "implicit": "CheckReport Monitor Observation argmin check custom_fixed_point custom_root "
    "implicit_jacobian inverse_jacobian monitor polish root_jvp root_vjp",
    "invertibility": "Certificate Verdict Witness",
    "minimisers": "GoldsteinCertificate Minimum minimise",
    "operators": "proximal",
    "values": "value",
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}
_PARTS = {
    *_NAMES, "cones", "equilibrium", "errors", "flows", "iterates", "numerics", "programs", "projections",
    "report", "solution", "solvers", "sparse", "stochastic",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        found = version("conservax")
    elif name in _HOMES:
        found = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    elif name in _PARTS:
        found = importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PARTS, "__version__"})
