"""Sparse models as differentiable functions of their data and penalties, with certificates."""

import importlib
from typing import TYPE_CHECKING, Any

from ..errors import MissingPackageError
from . import criteria
from .certificate import SparseReport, SparseWitness
from .fused import fused_lasso
from .group_models import group_lasso, sparse_group_lasso
from .linear_models import elastic_net, lasso, sparse_logistic, weighted_lasso
from .local_set import SparseJacobian
from .model import Model, Spec
from .other_models import huber, mcp, multinomial, poisson, scad, slope
from .plots import plot_contours, plot_path, plot_search
from .search import SearchCertificate
from .support_vectors import svm, svr

if TYPE_CHECKING:
    from .estimators import (
        ElasticNetSearchCV,
        GroupLassoSearchCV,
        LassoSearchCV,
        SparseLogisticSearchCV,
        WeightedLassoSearchCV,
    )

__all__ = [
    "ElasticNetSearchCV",
    "GroupLassoSearchCV",
    "LassoSearchCV",
    "Model",
    "SearchCertificate",
    "SparseJacobian",
    "SparseLogisticSearchCV",
    "SparseReport",
    "SparseWitness",
    "Spec",
    "WeightedLassoSearchCV",
    "criteria",
    "elastic_net",
    "fused_lasso",
    "group_lasso",
    "huber",
    "lasso",
    "mcp",
    "multinomial",
    "plot_contours",
    "plot_path",
    "plot_search",
    "poisson",
    "scad",
    "slope",
    "sparse_group_lasso",
    "sparse_logistic",
    "svm",
    "svr",
    "weighted_lasso",
]

# Imported when they are first used: they need the extra ``sklearn``.
_ESTIMATORS = {name for name in __all__ if name.endswith("SearchCV")}


def __getattr__(name: str) -> Any:
    if name not in _ESTIMATORS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        home = importlib.import_module(".estimators", __name__)
    except ModuleNotFoundError as missing:
        raise MissingPackageError(
            f"{name} needs {missing.name}: pip install 'conservax[sklearn]'."
        ) from missing
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
