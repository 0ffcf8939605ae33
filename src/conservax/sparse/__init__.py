"""Sparse models as differentiable functions of their data and penalties, with certificates."""

from .certificate import SparseReport, SparseWitness
from .group_models import group_lasso, sparse_group_lasso
from .linear_models import elastic_net, lasso, sparse_logistic, weighted_lasso
from .local_set import SparseJacobian
from .model import Model, Spec

__all__ = [
    "Model",
    "SparseJacobian",
    "SparseReport",
    "SparseWitness",
    "Spec",
    "elastic_net",
    "group_lasso",
    "lasso",
    "sparse_group_lasso",
    "sparse_logistic",
    "weighted_lasso",
]
