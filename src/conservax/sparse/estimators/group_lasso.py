"""The group Lasso, its penalty searched for."""

from typing import Any

import numpy as np

from ...errors import InvalidInputError
from ...solvers.threads import one_blas_thread
from ..penalties import GroupL2
from .base import Search, SearchRegressor


class GroupLassoSearchCV(SearchRegressor):
    """The group Lasso with the α of least cross-validated error found: … + α Σ_g √|g| ‖β_g‖.

    A coarse path, then bisection by the sign of the hypergradient.

    Parameters:
        groups: (p,) integers, the group of each feature; None makes every feature a group of its own. The
            others as of ``LassoSearchCV``.

    Attributes:
        As of ``LassoSearchCV``; the criterion is not a parabola between kinks, so that
        ``certificate_.certified`` is None.

    Source: as ``LassoSearchCV``; Yuan, Lin (2006).

    >>> import numpy as np
    >>> from conservax.sparse import GroupLassoSearchCV
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 6))
    >>> model = GroupLassoSearchCV(groups=[0, 0, 1, 1, 2, 2])
    >>> bool(np.all(np.abs(model.fit(X, X[:, 0] + X[:, 1]).coef_[:2] - 1) < 0.1))
    True
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        **Search._parameter_constraints,
        "groups": ["array-like", None],
    }

    def __init__(
        self,
        groups: Any = None,
        *,
        alpha_min_ratio: float = 1e-3,
        cv: Any = None,
        fit_intercept: bool = True,
        tol: float = 1e-6,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.groups = groups
        self.alpha_min_ratio = alpha_min_ratio
        self.cv = cv
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.n_jobs = n_jobs
        self.verbose = verbose

    @one_blas_thread()
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "GroupLassoSearchCV":
        """Search, and fit on all samples. X (n, p) dense or sparse, y (n,), sample_weight (n,)."""
        X, y, weight = self._checked(X, y, sample_weight)
        p = X.shape[1]
        labels = np.arange(p) if self.groups is None else np.asarray(self.groups)
        if labels.shape != (p,) or labels.dtype.kind not in "iu":
            raise InvalidInputError(f"groups must be {p} integers, the group of each feature.")
        _, index = np.unique(labels, return_inverse=True)
        penalty = _Grouped(index)
        y = y.astype(np.float64)
        judge = self._judge(X, y, weight, penalty)
        largest, above = self._largest(X, y, weight, penalty(np.array(1.0)))
        found = self._alpha(judge, largest, None, above)
        self._finish(X, y, weight, judge, {"alpha": np.asarray(found.alpha)}, found)
        self._attributes(judge.evaluations)
        return self


class _Grouped:
    """The group Lasso's penalty as a function of α that can be sent to other processes."""

    def __init__(self, index: np.ndarray) -> None:
        self.index = index
        self.weights = np.sqrt(np.bincount(index))

    def __call__(self, alpha: np.ndarray) -> GroupL2:
        return GroupL2(alpha, self.index, self.weights)
