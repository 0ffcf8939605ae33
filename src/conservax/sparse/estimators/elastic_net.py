"""The elastic net, both penalties searched for."""

from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils._param_validation import Interval

from ...errors import InvalidInputError
from ...solvers.threads import one_blas_thread
from ..cross_validation import CrossValidation, Judged
from ..penalties import L1
from ..search import (
    Found,
    SearchCertificate,
    certify_alpha,
    longest_search,
    minimise,
    most_evaluations,
    search_alpha,
)
from ..shared_folds import SharedFolds
from .base import Search, SearchRegressor


class ElasticNetSearchCV(SearchRegressor):
    """The elastic net, both penalties by cross-validation: … + α (τ ‖β‖₁ + (1 − τ) ‖β‖²/2).

    For a few ratios τ a search in α, where α counts in units of α_max and the ridge in those of the columns'
    largest variance, so that the units of X and y have no say; from the best of them a quasi-Newton search in
    both by hypergradients; at last α along the exact paths, the ridge held.

    Parameters:
        l1_ratio: the ratio τ in (0, 1], or several, to start from. max_iter: of the quasi-Newton search. The
            others as of ``LassoSearchCV``.

    Attributes:
        alpha_, l1_ratio_, coef_, intercept_: the choice, and the fit on all samples. alphas_: the values
            of α τ looked at at the last ridge. The others as of ``LassoSearchCV``.

    Source: as ``LassoSearchCV``.

    >>> import numpy as np
    >>> from conservax.sparse import ElasticNetSearchCV
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 10))
    >>> model = ElasticNetSearchCV().fit(X, X[:, 0] + 0.1 * rng.normal(size=60))
    >>> bool(model.coef_[0] > 0.9)
    True
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        **Search._parameter_constraints,
        "l1_ratio": ["array-like", Interval(Real, 0, 1, closed="right")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        *,
        l1_ratio: Any = (0.5, 0.95),
        alpha_min_ratio: float = 1e-3,
        max_iter: int = 20,
        cv: Any = None,
        fit_intercept: bool = True,
        tol: float = 1e-6,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.l1_ratio = l1_ratio
        self.alpha_min_ratio = alpha_min_ratio
        self.max_iter = max_iter
        self.cv = cv
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.n_jobs = n_jobs
        self.verbose = verbose

    @one_blas_thread()
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "ElasticNetSearchCV":
        """Search, and fit on all samples. X (n, p) dense or sparse, y (n,), sample_weight (n,)."""
        X, y, weight = self._checked(X, y, sample_weight)
        size = _size(X, weight, self.fit_intercept)
        ratios = np.atleast_1d(np.asarray(self.l1_ratio, dtype=float))
        if not (ratios.size and np.all((ratios > 0) & (ratios <= 1))):
            raise InvalidInputError(f"l1_ratio = {self.l1_ratio}; every ratio lies in (0, 1].")
        y = y.astype(np.float64)
        judge = self._judge_least_squares(X, y, weight, _ridged)
        largest, above = self._largest(X, y, weight, L1(np.array(1.0)))
        if largest <= 0:
            found, rho = self._alpha(judge, largest, None, above, rho=1e-12 * size), 1e-12 * size
        else:
            found, rho = self._both(judge, largest, ratios, size)
        self._finish(
            X, y, weight, judge, {"alpha": np.asarray(found.alpha), "rho": np.asarray(rho)}, found
        )
        self._attributes(judge.evaluations)
        self.l1_ratio_ = found.alpha / (found.alpha + rho)
        self.alpha_ = found.alpha + rho
        return self

    def _expected(self) -> int:
        rays = np.size(np.asarray(self.l1_ratio)) * longest_search(self.alpha_min_ratio)
        return rays + most_evaluations(self.max_iter)

    def _both(
        self, judge: CrossValidation | SharedFolds, largest: float, ratios: np.ndarray, size: float
    ) -> tuple[Found, float]:
        low = self.alpha_min_ratio * largest
        starts = []
        for ratio in ratios:
            # α in units of α_max and ρ in those of X: so the start does not depend on the units of X and y
            share = max((1 - ratio) / ratio, 1e-3) * size / largest
            # along the ray ρ = share · α the slope in log α is the sum of both
            tied, _ = search_alpha(
                lambda alpha, gap, share=share: _along(judge, alpha, share, gap),
                largest,
                low,
                self._say,
                judge.gaps,
            )
            starts.append((tied.certificate.error, tied.alpha, share * tied.alpha))
        _, alpha, rho = min(starts)
        bounds = [(np.log(low), np.log(largest)), (np.log(1e-6 * size), np.log(1e3 * size))]
        best, judged, _ = minimise(
            judge,
            {"alpha": np.asarray(alpha), "rho": np.asarray(rho)},
            bounds,
            self.max_iter,
            self._say,
        )
        alpha, rho = float(best["alpha"]), float(best["rho"])
        start = Found(
            alpha,
            SearchCertificate(judged.error, (low, largest), None, False, 0, 0.0),
            np.array([alpha]),
            judged.each[None],
        )
        return certify_alpha(judge, start, [(alpha, judged)], low, largest, rho), rho


def _size(X: Any, weight: np.ndarray, centred: bool) -> float:
    """The largest mean square of a column (about its mean): the unit of ρ."""
    omega = weight / weight.sum()
    mean = np.asarray(X.T @ omega) if centred else np.zeros(X.shape[1])
    if hasattr(X, "multiply"):
        spread = np.asarray(X.multiply(X).T @ omega) - mean**2
    else:
        spread = np.array([omega @ (x - m) ** 2 for x, m in zip(X.T, mean, strict=True)])
    return float(spread.max(initial=0.0)) or 1.0


def _ridged(alpha: np.ndarray, rho: np.ndarray) -> L1:
    return L1(alpha, float(rho))


def _along(judge: CrossValidation | SharedFolds, alpha: float, share: float, gap: float) -> Judged:
    judged = judge({"alpha": np.asarray(alpha), "rho": np.asarray(share * alpha)}, gap)
    return Judged(
        judged.error,
        judged.each,
        lambda: {"alpha": judged.slopes["alpha"] + judged.slopes["rho"]},
    )
