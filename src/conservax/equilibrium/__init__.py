"""Equilibrium networks with guarantees: layers whose output solves z = σ(W z + U x + b)."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import activations
    from .certificates import EquilibriumCertificate, certified_radius
    from .convolutional import MonotoneConvEquilibrium, MonotoneTierEquilibrium
    from .deep import Equilibrium, SpectralCell
    from .monotone import MonotoneEquilibrium
    from .phantom import Phantom

__all__ = [
    "Equilibrium",
    "EquilibriumCertificate",
    "MonotoneConvEquilibrium",
    "MonotoneEquilibrium",
    "MonotoneTierEquilibrium",
    "Phantom",
    "SpectralCell",
    "activations",
    "certified_radius",
]

# imported when first used: Equinox takes its time
_HOMES = {
    "Equilibrium": "deep",
    "SpectralCell": "deep",
    "MonotoneConvEquilibrium": "convolutional",
    "MonotoneTierEquilibrium": "convolutional",
    "certified_radius": "certificates",
    "EquilibriumCertificate": "certificates",
    "MonotoneEquilibrium": "monotone",
    "Phantom": "phantom",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in _HOMES:
        return importlib.import_module(f".{name}", __name__)
    found = globals()[name] = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
