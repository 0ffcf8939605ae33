"""The Lasso with a penalty a feature, all searched for."""

from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils._param_validation import Interval

from ..penalties import L1
from ..search import Found, SearchCertificate, longest_search, minimise, most_evaluations
from .base import Search, SearchRegressor


class WeightedLassoSearchCV(SearchRegressor):
    """The Lasso with a penalty a feature, all of them by cross-validation.

    From the best common α a quasi-Newton search in the p logarithms by hypergradients, which cost no more
    than one. So many penalties can be fitted to the folds themselves: few iterations are the regulariser.

    Parameters:
        max_iter: of the quasi-Newton search. spread: how far, as a factor, a penalty may go from the common
            one. The others as of ``LassoSearchCV``.

    Attributes:
        alphas_by_feature_: (p,), the penalties. alpha_: the common one at the start. The others as of
            ``LassoSearchCV``; ``certificate_.error`` is that of the final penalties.

    Source: as ``LassoSearchCV``.

    >>> import numpy as np
    >>> from conservax.sparse import WeightedLassoSearchCV
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 10))
    >>> model = WeightedLassoSearchCV().fit(X, X[:, 0] + 0.1 * rng.normal(size=60))
    >>> bool(model.alphas_by_feature_[0] < model.alpha_)
    True
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        **Search._parameter_constraints,
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "spread": [Interval(Real, 1, None, closed="neither")],
    }

    def __init__(
        self,
        *,
        alpha_min_ratio: float = 1e-3,
        max_iter: int = 10,
        spread: float = 1e3,
        cv: Any = None,
        fit_intercept: bool = True,
        tol: float = 1e-6,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.alpha_min_ratio = alpha_min_ratio
        self.max_iter = max_iter
        self.spread = spread
        self.cv = cv
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.n_jobs = n_jobs
        self.verbose = verbose

    def _expected(self) -> int:
        return longest_search(self.alpha_min_ratio) + most_evaluations(self.max_iter)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "WeightedLassoSearchCV":
        """Search, and fit on all samples. X (n, p) dense or sparse, y (n,), sample_weight (n,)."""
        X, y, weight = self._checked(X, y, sample_weight)
        y = y.astype(np.float64)
        judge = self._judge_least_squares(X, y, weight, L1)
        largest = self._largest(X, y, weight, L1(np.array(1.0)))
        found = self._alpha(judge, largest, None)
        p = X.shape[1]
        alphas = np.full(p, found.alpha)
        if largest > 0:
            centre, reach = np.log(found.alpha), np.log(self.spread)
            bounds = [(centre - reach, centre + reach)] * p
            best, judged, _ = minimise(judge, {"alpha": alphas}, bounds, self.max_iter, self._say)
            alphas = best["alpha"]
            found = Found(
                found.alpha,
                SearchCertificate(judged.error, found.certificate.searched, None, False, 0, 0.0),
                found.alphas,
                found.errors,
            )
        self._finish(X, y, weight, judge, {"alpha": alphas}, found)
        self._attributes(judge.evaluations)
        self.alphas_by_feature_ = alphas
        return self
