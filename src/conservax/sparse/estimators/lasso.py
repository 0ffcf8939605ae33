"""The Lasso, its penalty searched for."""

from typing import Any, cast

import numpy as np
from sklearn.model_selection import check_cv
from sklearn.utils._param_validation import StrOptions

from ...solvers.threads import one_blas_thread
from ..penalties import L1
from .base import Search, SearchRegressor


class LassoSearchCV(SearchRegressor):
    """The Lasso with the α of least cross-validated error: argmin ‖y − Xβ − b‖²/(2n) + α ‖β‖₁.

    A coarse path and cubics through errors and hypergradients find the minimum; around it, or with
    ``certify="path"`` on all of [α_min, α_max], the folds' paths are followed kink by kink, so that no α
    there has a lower error.

    Parameters:
        alpha_min_ratio: α_min/α_max. certify: "bracket" or "path".
        cv: as of ``LassoCV``. fit_intercept; tol: relative violation of optimality of the folds' fits.
        n_jobs: folds fitted at once, by joblib. verbose: tell of every evaluation.

    Attributes:
        alpha_, coef_, intercept_: the choice, and the fit on all samples.
        alphas_, mse_path_: the penalties looked at, decreasing, and the folds' mean squared errors there (on
            large data, where the path was coarse, of fits to a small duality gap). Folds without weight to
            fit on or to be judged by have no column. What is minimised is the mean over all held-out samples,
            not over folds as in ``LassoCV``.
        n_iter_: evaluations of the cross-validated error.
        certificate_: a ``SearchCertificate``. n_features_in_, feature_names_in_: as everywhere.

    Source: docs/theory.md#the-lasso; Bertrand and others (2022) for the hypergradient.

    >>> import numpy as np
    >>> from conservax.sparse import LassoSearchCV
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 10))
    >>> model = LassoSearchCV().fit(X, X[:, 0] + 0.1 * rng.normal(size=60))
    >>> bool(model.coef_[0] > 0.9), model.certificate_.exact
    (True, True)
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        **Search._parameter_constraints,
        "certify": [StrOptions({"bracket", "path"})],
    }

    def __init__(
        self,
        *,
        alpha_min_ratio: float = 1e-3,
        certify: str = "bracket",
        cv: Any = None,
        fit_intercept: bool = True,
        tol: float = 1e-6,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.alpha_min_ratio = alpha_min_ratio
        self.certify = certify
        self.cv = cv
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.n_jobs = n_jobs
        self.verbose = verbose

    def _expected(self) -> int:
        if self.certify == "path":  # a step a fold
            return (
                cast(Any, check_cv)(self.cv).get_n_splits()
                if isinstance(self.cv, int | None)
                else 5
            )
        return super()._expected()

    @one_blas_thread()
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "LassoSearchCV":
        """Search, and fit on all samples. X (n, p) dense or sparse, y (n,), sample_weight (n,)."""
        X, y, weight = self._checked(X, y, sample_weight)
        y = y.astype(np.float64)
        judge = self._judge_least_squares(X, y, weight, L1)
        largest, above = self._largest(X, y, weight, L1(np.array(1.0)))
        found = self._alpha(judge, largest, self.certify, above)
        self._finish(X, y, weight, judge, {"alpha": np.asarray(found.alpha)}, found)
        self._attributes(judge.evaluations)
        return self
