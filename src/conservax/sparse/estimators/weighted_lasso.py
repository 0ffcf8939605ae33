"""The Lasso with a penalty a feature, all searched for."""

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from ...solvers.threads import one_blas_thread
from ..cross_validation import CrossValidation
from ..penalties import L1
from ..search import (
    Found,
    SearchCertificate,
    longest_search,
    minimise,
    most_evaluations,
    search_alpha,
)
from ..shared_folds import SharedFolds
from .base import Search, SearchRegressor, Splits

_SHARES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)


class WeightedLassoSearchCV(SearchRegressor):
    """The Lasso with a penalty a feature, all of them by cross-validation.

    From the best common α a quasi-Newton search in the p logarithms by hypergradients, which cost no more
    than one. So many penalties are fitted to the folds themselves: of the way that it goes in the logarithms,

        log α_j = log α + κ (log α̂_j − log α),

    a share κ in [0, 1] is kept. By default it is chosen by nested cross-validation: the same search without
    fold k is judged on fold k, for every k, and the least κ within two standard errors of the best is taken.
    Where a penalty a feature predicts no better, it is 0: the common α.

    Parameters:
        keep: κ, or "nested". max_iter: of the quasi-Newton search. spread: how far, as a factor, a penalty may
            go from the common one. The others as of ``LassoSearchCV``.

    Attributes:
        alphas_by_feature_: (p,), the penalties. alpha_: the common one at the start. keep_: κ. The others as
            of ``LassoSearchCV``; ``certificate_.error`` is that of the final penalties.

    Source: as ``LassoSearchCV``.

    >>> import numpy as np
    >>> from conservax.sparse import WeightedLassoSearchCV
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 10))
    >>> model = WeightedLassoSearchCV(keep=1.0).fit(X, X[:, 0] + 0.1 * rng.normal(size=60))
    >>> bool(model.alphas_by_feature_[0] < model.alpha_)
    True
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        **Search._parameter_constraints,
        "keep": [StrOptions({"nested"}), Interval(Real, 0, 1, closed="both")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "spread": [Interval(Real, 1, None, closed="neither")],
    }

    def __init__(
        self,
        *,
        keep: str | float = "nested",
        alpha_min_ratio: float = 1e-3,
        max_iter: int = 10,
        spread: float = 1e3,
        cv: Any = None,
        fit_intercept: bool = True,
        tol: float = 1e-6,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.keep = keep
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

    @one_blas_thread()
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "WeightedLassoSearchCV":
        """Search, and fit on all samples. X (n, p) dense or sparse, y (n,), sample_weight (n,)."""
        X, y, weight = self._checked(X, y, sample_weight)
        y = y.astype(np.float64)
        splits = self._splits(X, y, weight, None)
        judge = self._judge_least_squares(X, y, weight, L1, splits)
        largest, above = self._largest(X, y, weight, L1(np.array(1.0)))
        found = self._alpha(judge, largest, "bracket", above)
        alphas = np.full(X.shape[1], found.alpha)
        self.keep_ = 0.0
        if largest > 0:
            nested = self.keep == "nested"
            self.keep_ = self._kept(X, y, weight, splits) if nested else float(self.keep)
        if self.keep_:
            best = self._weights(judge, found.alpha, X.shape[1], self._say)
            alphas = _on_the_way(found.alpha, best, self.keep_)
            error = judge({"alpha": alphas}).error
            found = Found(
                found.alpha,
                SearchCertificate(error, found.certificate.searched, None, False, 0, 0.0),
                found.alphas,
                found.errors,
            )
        self._finish(X, y, weight, judge, {"alpha": alphas}, found)
        self._attributes(judge.evaluations)
        self.alphas_by_feature_ = alphas
        return self

    def _weights(
        self,
        judge: CrossValidation | SharedFolds,
        alpha: float,
        p: int,
        say: Callable[[str], None] = lambda line: None,
    ) -> np.ndarray:
        """The penalties (p,) of least error that the search finds from a common one."""
        centre, reach = np.log(alpha), np.log(self.spread)
        bounds = [(centre - reach, centre + reach)] * p
        start = {"alpha": np.full(p, alpha)}
        return minimise(judge, start, bounds, self.max_iter, say)[0]["alpha"]

    def _kept(self, X: Any, y: np.ndarray, weight: np.ndarray, splits: Splits) -> float:
        """The least κ that does as well as any on folds which the search for the weights has not seen.

        As well: within two standard errors of the difference, fold by fold. One would be the custom (Breiman
        and others, 1984); but folds share their samples, so that errors are underestimated.
        """
        rows = []
        for k, (fit_on, out) in enumerate(splits):
            others = [
                (fitted[~np.isin(fitted, out)], held[~np.isin(held, out)])
                for j, (fitted, held) in enumerate(splits)
                if j != k
            ]
            others = [pair for pair in others if len(pair[0]) and len(pair[1])]
            rest = np.zeros_like(weight)
            np.add.at(rest, fit_on, weight[fit_on])
            largest, _ = self._largest(X, y, rest, L1(np.array(1.0)))
            if not others or largest <= 0:
                continue
            judge = self._judge_least_squares(X, y, weight, L1, others)
            low = self.alpha_min_ratio * largest
            found, _ = search_alpha(
                lambda alpha, gap, judge=judge: judge({"alpha": np.asarray(alpha)}, gap),
                largest,
                low,
            )
            best = self._weights(judge, found.alpha, X.shape[1])
            unseen = self._judge_least_squares(X, y, weight, L1, [(fit_on, out)])
            errors = [unseen({"alpha": _on_the_way(found.alpha, best, s)}).error for s in _SHARES]
            rows.append(np.array(errors) * weight[out].sum())
        if len(rows) < 2:
            return 0.0
        losses = np.array(rows)
        excess = losses - losses[:, [int(np.argmin(losses.sum(axis=0)))]]
        error = 2 * excess.std(axis=0, ddof=1) / np.sqrt(len(rows))
        return float(_SHARES[int(np.argmax(excess.mean(axis=0) <= error))])


def _on_the_way(alpha: float, alphas: np.ndarray, share: float) -> np.ndarray:
    return alpha * (alphas / alpha) ** share
