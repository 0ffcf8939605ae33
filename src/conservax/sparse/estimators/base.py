"""What the estimators share: folds, the search for α, the final fit, its certificate, and the progress bar."""

from collections.abc import Callable
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, cast

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.model_selection import check_cv
from sklearn.utils._param_validation import Interval
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from ...errors import InvalidInputError
from ..certificate import certificate
from ..cross_validation import CrossValidation, Fold, Judged, Parameters
from ..datafits import Datafit, Quadratic
from ..derivative import Reduced
from ..design import Design
from ..local_set import LocalSystem
from ..penalties import L1, Penalty
from ..search import (
    Found,
    SearchCertificate,
    certify_alpha,
    certify_path,
    longest_search,
    search_alpha,
)
from ..shared_folds import SharedFolds
from ..solvers import Problem, working_set
from .progress import Progress

_AT_ONCE = 20  # folds, each with its own copy of the columns that matter
_RTOL = float(np.sqrt(np.finfo(float).eps))


Splits = list[tuple[np.ndarray, np.ndarray]]
"""Rows to fit on, and rows to judge by."""


class Search(BaseEstimator):
    """What the estimators share: folds, the search for α, the final fit and its certificate."""

    _datafit: Datafit = Quadratic()
    alpha_min_ratio: float
    cv: Any
    fit_intercept: bool
    tol: float
    n_jobs: int | None
    verbose: int
    _bar: Progress | None = None

    _parameter_constraints: dict = {  # noqa: RUF012
        "alpha_min_ratio": [Interval(Real, 0, 1, closed="neither")],
        "cv": ["cv_object"],
        "fit_intercept": ["boolean"],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "n_jobs": [Integral, None],
        "verbose": ["verbose"],
    }

    def _checked(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, np.ndarray, np.ndarray]:
        self._validate_params()
        self.__dict__.pop("_bar", None)  # of a fit that failed
        numeric = not isinstance(self, ClassifierMixin)
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse="csc",
            dtype=[np.float64, np.float32],
            y_numeric=numeric,
            ensure_min_samples=2,
        )
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        return X, y, weight

    def _splits(self, X: Any, y: np.ndarray, weight: np.ndarray, labels: Any) -> Splits:
        """Rows to fit on and rows to judge by, those without weight left out."""
        splitter = cast(Any, check_cv(self.cv, labels, classifier=labels is not None))
        rows = np.arange(len(weight))  # masks, lists and negative indices become row numbers
        pairs = [
            (rows[np.asarray(fit_on)], rows[np.asarray(out)])
            for fit_on, out in splitter.split(X, y if labels is None else labels)
            if len(fit_on) and len(out)
        ]
        pairs = [(fit_on[weight[fit_on] > 0], out[weight[out] > 0]) for fit_on, out in pairs]
        pairs = [(fit_on, out) for fit_on, out in pairs if len(fit_on) and len(out)]
        if not pairs:
            raise InvalidInputError(
                "sample_weight leaves no fold with samples to fit on and to judge."
            )
        return pairs

    def _judge(
        self,
        X: Any,
        y: np.ndarray,
        weight: np.ndarray,
        penalty: Callable[..., Penalty],
        labels: Any = None,
        splits: Splits | None = None,
    ) -> CrossValidation:
        """The cross-validated error, fold by fold; ``splits``: others than those of ``cv``."""
        rows = X.tocsr() if hasattr(X, "tocsr") else X
        folds = [
            Fold(rows[fit_on], y[fit_on], weight[fit_on], rows[out], y[out], weight[out])
            for fit_on, out in splits or self._splits(X, y, weight, labels)
        ]

        def run(function: Callable[..., Any], jobs: list[tuple]) -> list[Any]:
            if self.n_jobs in (None, 1):
                return [function(*job) for job in jobs]
            return list(Parallel(n_jobs=self.n_jobs)(delayed(function)(*job) for job in jobs))

        return CrossValidation(folds, self._datafit, penalty, self.fit_intercept, self.tol, run)

    def _judge_least_squares(
        self,
        X: Any,
        y: np.ndarray,
        weight: np.ndarray,
        penalty: Callable[..., Penalty],
        splits: Splits | None = None,
    ) -> CrossValidation | SharedFolds:
        """The same for ``L1``: all folds at once where X is dense, folds are few and one process has them."""
        splits = splits or self._splits(X, y, weight, None)
        if self.n_jobs in (None, 1) and not hasattr(X, "tocsr") and len(splits) <= _AT_ONCE:
            X = np.asarray(X, dtype=np.float64)
            return SharedFolds(X, y, weight, splits, self.fit_intercept, self.tol, penalty)
        return self._judge(X, y, weight, penalty, splits=splits)

    def _largest(
        self, X: Any, y: np.ndarray, weight: np.ndarray, penalty: Penalty
    ) -> tuple[float, float]:
        """The least α at which all coefficients are zero, with the intercept fitted, and a bound of its kind.

        The first is 0 where it is what the means of y and of the columns leave by rounding alone. The second
        would do for any y of this size: it is the α that is taken there.
        """
        design = Design.of(X, 1, self.fit_intercept)
        blank = Problem(design, self._datafit, y, weight / weight.sum(), _Shut())
        fit = working_set(blank)
        largest = penalty.zero_above(fit.gradient[: design.penalised])
        reach = abs(X).max(axis=0)
        reach = np.asarray(reach.todense()).ravel() if hasattr(reach, "todense") else reach
        above = penalty.zero_above(reach * float(np.abs(y).max()))
        pull = float(np.abs(blank.loss_gradient(fit.z)).sum())
        rounding = penalty.zero_above(reach * pull) + above * self._datafit.quadratic
        if self.fit_intercept and largest <= 4 * np.finfo(float).eps * rounding:
            largest = 0.0
        return largest, above or 1.0

    def _expected(self) -> int:
        """The most evaluations that ``fit`` may take, for the progress bar."""
        return longest_search(self.alpha_min_ratio)

    def _say(self, line: str) -> None:
        if not self.verbose:
            return
        if self._bar is None:
            self._bar = Progress(type(self).__name__, self._expected())
        self._bar.step(line)

    def _finish(
        self,
        X: Any,
        y: np.ndarray,
        weight: np.ndarray,
        judge: CrossValidation | SharedFolds,
        parameters: Parameters,
        found: Found,
    ) -> None:
        """Fit on all samples with these parameters, and keep what was found."""
        if self._bar is not None:
            self._bar.close()
            del self._bar  # the class's None is left: a stream does not travel in a pickle
        design = Design.of(X, 1, self.fit_intercept)
        omega = weight / weight.sum()
        problem = Problem(design, self._datafit, y, omega, judge.penalty(**parameters))
        start = None
        if isinstance(judge, SharedFolds):
            start = np.append(judge.on_all(parameters), np.zeros(design.size - X.shape[1]))
            start[X.shape[1] :] = omega @ (y - design.predict(start)[:, 0])
        outcome = working_set(problem, start).required()
        held = design.penalised
        face = problem.penalty.face(outcome.coef[:held], outcome.gradient[:held], _RTOL)
        reduced = Reduced(problem, outcome.coef, outcome.z, face, float(weight.sum()))
        scale = float(np.abs(outcome.gradient).max(initial=0.0)) or 1.0
        report = certificate(LocalSystem.of(reduced, _RTOL), outcome.violation / scale, _RTOL)
        self.alpha_ = found.alpha
        self.alphas_, self._errors = found.alphas, found.errors
        self.certificate_ = replace(found.certificate, regularity=report)
        self._coef = outcome.coef[:held]
        self._shift = float(outcome.coef[held]) if self.fit_intercept else 0.0

    def _alpha(
        self,
        judge: CrossValidation | SharedFolds,
        largest: float,
        certify: str | None,
        above: float,
        **fixed: Any,
    ) -> Found:
        """The best α, coarse to fine, and certified where there is a path to certify it by.

        ``above``: the α that is taken where no α explains anything.
        """
        if largest <= 0:  # nothing to explain: any penalty gives zero
            return _nothing(judge(_parameters(above, fixed)), above)
        low = self.alpha_min_ratio * largest
        if certify == "path":
            return certify_path(judge, low, say=self._say, **fixed)
        found, seen = search_alpha(
            lambda alpha, gap: judge(_parameters(alpha, fixed), gap),
            largest,
            low,
            self._say,
            (0.0, 0.0) if certify is None else judge.gaps,
        )
        if certify is None:
            return found
        return certify_alpha(judge, found, seen, low, largest, **fixed)


class _Shut(Penalty):
    """Lets no coefficient move: what is left is the intercept."""

    def value(self, beta: np.ndarray) -> float:
        return 0.0

    def prox(self, v: np.ndarray, step: float) -> np.ndarray:
        return np.zeros_like(v)

    def violation(self, beta: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        return np.zeros_like(beta)

    def face(self, beta: np.ndarray, gradient: Any = None, rtol: float = 0.0) -> Any:
        return L1(np.array(1.0)).face(np.zeros_like(beta))

    def restrict(self, rows: np.ndarray) -> "_Shut":
        return self

    def zero_above(self, gradient: np.ndarray) -> float:
        return 0.0


def _parameters(alpha: float, fixed: dict[str, Any]) -> Parameters:
    return {"alpha": np.asarray(alpha), **{k: np.asarray(v) for k, v in fixed.items()}}


def _nothing(judged: Judged, alpha: float) -> Found:
    certificate = SearchCertificate(
        judged.error,
        (alpha, np.inf),
        (alpha, np.inf),
        True,
        0,
        0.0,
        note="y, or every column of X, is constant: any penalty gives zero coefficients",
    )
    return Found(alpha, certificate, np.array([alpha]), judged.each[None])


class SearchRegressor(RegressorMixin, Search):
    """Least squares: ``predict``, ``score`` and the attributes of scikit-learn's linear models."""

    def _attributes(self, evaluations: int) -> None:
        self.coef_, self.intercept_ = self._coef, self._shift
        self.mse_path_ = self._errors
        self.n_iter_ = evaluations
        del self._coef, self._shift, self._errors

    def predict(self, X: Any) -> np.ndarray:
        """Xβ + b."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", reset=False, dtype=[np.float64, np.float32])
        return safe_sparse_dot(X, self.coef_) + self.intercept_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
