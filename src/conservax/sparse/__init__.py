"""Sparse models as differentiable functions of their data and penalties, with certificates."""

from .certificate import SparseReport, SparseWitness
from .fused import fused_lasso
from .group_models import group_lasso, sparse_group_lasso
from .linear_models import elastic_net, lasso, sparse_logistic, weighted_lasso
from .local_set import SparseJacobian
from .model import Model, Spec
from .other_models import huber, mcp, multinomial, poisson, scad, slope
from .support_vectors import svm, svr

__all__ = [
    "Model",
    "SparseJacobian",
    "SparseReport",
    "SparseWitness",
    "Spec",
    "elastic_net",
    "fused_lasso",
    "group_lasso",
    "huber",
    "lasso",
    "mcp",
    "multinomial",
    "poisson",
    "scad",
    "slope",
    "sparse_group_lasso",
    "sparse_logistic",
    "svm",
    "svr",
    "weighted_lasso",
]
