"""scikit-learn estimators that search for their penalties: by gradient, with a certificate."""

from .elastic_net import ElasticNetSearchCV
from .group_lasso import GroupLassoSearchCV
from .lasso import LassoSearchCV
from .sparse_logistic import SparseLogisticSearchCV
from .weighted_lasso import WeightedLassoSearchCV

__all__ = [
    "ElasticNetSearchCV",
    "GroupLassoSearchCV",
    "LassoSearchCV",
    "SparseLogisticSearchCV",
    "WeightedLassoSearchCV",
]
