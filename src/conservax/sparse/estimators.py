"""scikit-learn estimators that search for their penalties: by gradient, with a certificate."""

from collections.abc import Callable
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, cast

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.model_selection import check_cv
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from ..errors import InvalidInputError
from .certificate import certificate
from .cross_validation import CrossValidation, Fold, Judged, Parameters
from .datafits import Datafit, Logistic, Quadratic
from .derivative import Reduced
from .design import Design
from .local_set import LocalSystem
from .penalties import L1, GroupL2, Penalty
from .search import Found, SearchCertificate, certify_alpha, certify_path, minimise, search_alpha
from .solvers import Problem, working_set

_RTOL = float(np.sqrt(np.finfo(float).eps))


class _Search(BaseEstimator):
    """What the estimators share: folds, the search for α, the final fit and its certificate."""

    _datafit: Datafit = Quadratic()
    alpha_min_ratio: float
    cv: Any
    fit_intercept: bool
    tol: float
    n_jobs: int | None
    verbose: int

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

    def _folds(self, X: Any, y: np.ndarray, weight: np.ndarray, labels: Any = None) -> list[Fold]:
        splitter = cast(Any, check_cv(self.cv, labels, classifier=labels is not None))
        folds = []
        rows = X.tocsr() if hasattr(X, "tocsr") else X
        for fit_on, out in splitter.split(X, y if labels is None else labels):
            fit_on = fit_on[weight[fit_on] > 0]
            out = out[weight[out] > 0]
            if len(fit_on) and len(out):
                folds.append(
                    Fold(rows[fit_on], y[fit_on], weight[fit_on], rows[out], y[out], weight[out])
                )
        if not folds:
            raise InvalidInputError(
                "sample_weight leaves no fold with samples to fit on and to judge."
            )
        return folds

    def _judge(self, folds: list[Fold], penalty: Callable[..., Penalty]) -> CrossValidation:
        def run(function: Callable[..., Any], jobs: list[tuple]) -> list[Any]:
            if self.n_jobs in (None, 1):
                return [function(*job) for job in jobs]
            return list(Parallel(n_jobs=self.n_jobs)(delayed(function)(*job) for job in jobs))

        return CrossValidation(folds, self._datafit, penalty, self.fit_intercept, self.tol, run)

    def _largest(self, X: Any, y: np.ndarray, weight: np.ndarray, penalty: Penalty) -> float:
        """The least α at which all coefficients are zero, with the intercept fitted."""
        design = Design.of(X, 1, self.fit_intercept)
        blank = Problem(design, self._datafit, y, weight / weight.sum(), _Shut())
        fit = working_set(blank)
        return penalty.zero_above(fit.gradient[: design.penalised])

    def _say(self, line: str) -> None:
        if self.verbose:
            print(f"[{type(self).__name__}] {line}")  # noqa: T201

    def _finish(
        self, X: Any, y: np.ndarray, weight: np.ndarray, penalty: Penalty, found: Found
    ) -> None:
        """Fit on all samples, and keep what was found."""
        design = Design.of(X, 1, self.fit_intercept)
        problem = Problem(design, self._datafit, y, weight / weight.sum(), penalty)
        outcome = working_set(problem).required()
        held = design.penalised
        face = penalty.face(outcome.coef[:held], outcome.gradient[:held], _RTOL)
        reduced = Reduced(problem, outcome.coef, outcome.z, face, float(weight.sum()))
        scale = float(np.abs(outcome.gradient).max(initial=0.0)) or 1.0
        report = certificate(LocalSystem.of(reduced, _RTOL), outcome.violation / scale, _RTOL)
        self.alpha_ = found.alpha
        self.alphas_, self._errors = found.alphas, found.errors
        self.certificate_ = replace(found.certificate, regularity=report)
        self._coef = outcome.coef[:held]
        self._shift = float(outcome.coef[held]) if self.fit_intercept else 0.0

    def _alpha(
        self, judge: CrossValidation, largest: float, certify: str | None, **fixed: Any
    ) -> Found:
        """The best α, coarse to fine, and certified where there is a path to certify it by."""
        if largest <= 0:  # nothing to explain: any penalty gives zero
            tiny = float(np.finfo(float).resolution)
            return _nothing(judge(_parameters(tiny, fixed)), tiny)
        low = self.alpha_min_ratio * largest
        if certify == "path":
            return certify_path(judge, low, say=self._say, **fixed)
        found, bottom, top = search_alpha(
            lambda alpha: judge(_parameters(alpha, fixed)), largest, low, self._say
        )
        return found if certify is None else certify_alpha(judge, found, bottom, top, **fixed)


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
    certificate = SearchCertificate(judged.error, (alpha, np.inf), (alpha, np.inf), True, 0, 0.0)
    return Found(alpha, certificate, np.array([alpha]), judged.each[None])


class _SearchRegressor(RegressorMixin, _Search):
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


class LassoSearchCV(_SearchRegressor):
    """The Lasso with the α of least cross-validated error: argmin ‖y − Xβ − b‖²/(2n) + α ‖β‖₁.

    A coarse path and the sign of the hypergradient bracket the minimum; on the bracket, or with
    ``certify="path"`` on all of [α_min, α_max], the folds' paths are followed kink by kink, so that no α
    there has a lower error.

    Parameters:
        alpha_min_ratio: α_min/α_max. certify: "bracket" or "path".
        cv: as of ``LassoCV``. fit_intercept; tol: relative violation of optimality of the folds' fits.
        n_jobs: folds fitted at once, by joblib. verbose: tell of every evaluation.

    Attributes:
        alpha_, coef_, intercept_: the choice, and the fit on all samples.
        alphas_, mse_path_: the penalties looked at, decreasing, and the folds' mean squared errors there.
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
        **_Search._parameter_constraints,
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

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "LassoSearchCV":
        """Search, and fit on all samples. X (n, p) dense or sparse, y (n,), sample_weight (n,)."""
        X, y, weight = self._checked(X, y, sample_weight)
        y = y.astype(np.float64)
        judge = self._judge(self._folds(X, y, weight), L1)
        largest = self._largest(X, y, weight, L1(np.array(1.0)))
        found = self._alpha(judge, largest, self.certify)
        self._finish(X, y, weight, L1(np.asarray(found.alpha)), found)
        self._attributes(judge.evaluations)
        return self


class ElasticNetSearchCV(_SearchRegressor):
    """The elastic net, both penalties by cross-validation: … + α (τ ‖β‖₁ + (1 − τ) ‖β‖²/2).

    For a few ratios τ a search in α; from the best of them a quasi-Newton search in both by hypergradients;
    at last α along the exact paths, the ridge held.

    Parameters:
        l1_ratio: the ratios τ in (0, 1] to start from. max_iter: of the quasi-Newton search. The others as
            of ``LassoSearchCV``.

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
        **_Search._parameter_constraints,
        "l1_ratio": ["array-like"],
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

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "ElasticNetSearchCV":
        """Search, and fit on all samples. X (n, p) dense or sparse, y (n,), sample_weight (n,)."""
        X, y, weight = self._checked(X, y, sample_weight)
        ratios = np.atleast_1d(np.asarray(self.l1_ratio, dtype=float))
        if not (ratios.size and np.all((ratios > 0) & (ratios <= 1))):
            raise InvalidInputError(f"l1_ratio = {self.l1_ratio}; every ratio lies in (0, 1].")
        y = y.astype(np.float64)
        judge = self._judge(self._folds(X, y, weight), _ridged)
        largest = self._largest(X, y, weight, L1(np.array(1.0)))
        if largest <= 0:
            found, rho = self._alpha(judge, largest, None, rho=1e-12), 1e-12
        else:
            found, rho = self._both(judge, largest, ratios)
        self._finish(X, y, weight, L1(np.asarray(found.alpha), rho), found)
        self._attributes(judge.evaluations)
        self.l1_ratio_ = found.alpha / (found.alpha + rho)
        self.alpha_ = found.alpha + rho
        return self

    def _both(
        self, judge: CrossValidation, largest: float, ratios: np.ndarray
    ) -> tuple[Found, float]:
        low = self.alpha_min_ratio * largest
        starts = []
        for ratio in ratios:
            share = max((1 - ratio) / ratio, 1e-3)
            # along the ray ρ = share · α the slope in log α is the sum of both
            tied, _, _ = search_alpha(
                lambda alpha, share=share: _along(judge, alpha, share), largest, low, self._say
            )
            starts.append((tied.certificate.error, tied.alpha, share * tied.alpha))
        _, alpha, rho = min(starts)
        bounds = [(np.log(low), np.log(largest)), (np.log(1e-6 * largest), np.log(1e3 * largest))]
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
        high, near = min(1.05 * alpha, largest), max(alpha / 1.05, low)
        return certify_alpha(judge, start, min(near, alpha), max(high, alpha), rho), rho


def _ridged(alpha: np.ndarray, rho: np.ndarray) -> L1:
    return L1(alpha, float(rho))


def _along(judge: CrossValidation, alpha: float, share: float) -> Judged:
    judged = judge({"alpha": np.asarray(alpha), "rho": np.asarray(share * alpha)})
    both = {"alpha": judged.slopes["alpha"] + judged.slopes["rho"]}
    return judged._replace(slopes=both)


class WeightedLassoSearchCV(_SearchRegressor):
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
        **_Search._parameter_constraints,
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

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "WeightedLassoSearchCV":
        """Search, and fit on all samples. X (n, p) dense or sparse, y (n,), sample_weight (n,)."""
        X, y, weight = self._checked(X, y, sample_weight)
        y = y.astype(np.float64)
        judge = self._judge(self._folds(X, y, weight), L1)
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
        self._finish(X, y, weight, L1(alphas), found)
        self._attributes(judge.evaluations)
        self.alphas_by_feature_ = alphas
        return self


class GroupLassoSearchCV(_SearchRegressor):
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
        **_Search._parameter_constraints,
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
        judge = self._judge(self._folds(X, y, weight), penalty)
        largest = self._largest(X, y, weight, penalty(np.array(1.0)))
        found = self._alpha(judge, largest, None)
        self._finish(X, y, weight, penalty(np.asarray(found.alpha)), found)
        self._attributes(judge.evaluations)
        return self


class _Grouped:
    """The group Lasso's penalty as a function of α that can be sent to other processes."""

    def __init__(self, index: np.ndarray) -> None:
        self.index = index
        self.weights = np.sqrt(np.bincount(index))

    def __call__(self, alpha: np.ndarray) -> GroupL2:
        return GroupL2(alpha, self.index, self.weights)


class SparseLogisticSearchCV(ClassifierMixin, _Search):
    """Sparse logistic regression of two classes with the α of least cross-validated log loss found.

    argmin (1/n) Σ log(1 + exp(−y_i (x_iᵀβ + b))) + α ‖β‖₁. A coarse path, then bisection by the sign of the
    hypergradient.

    Parameters: as of ``LassoSearchCV``.

    Attributes:
        classes_; coef_ (1, p), intercept_ (1,): the fit on all samples. loss_path_: the folds' mean log
            losses at ``alphas_``. The others as of ``LassoSearchCV``.

    Source: as ``LassoSearchCV``.

    >>> import numpy as np
    >>> from conservax.sparse import SparseLogisticSearchCV
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(80, 6))
    >>> model = SparseLogisticSearchCV().fit(X, X[:, 0] + 0.1 * rng.normal(size=80) > 0)
    >>> bool(model.score(X, X[:, 0] > 0) > 0.9)
    True
    """

    _datafit: Datafit = Logistic()

    def __init__(
        self,
        *,
        alpha_min_ratio: float = 1e-3,
        cv: Any = None,
        fit_intercept: bool = True,
        tol: float = 1e-6,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.alpha_min_ratio = alpha_min_ratio
        self.cv = cv
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.n_jobs = n_jobs
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "SparseLogisticSearchCV":
        """Search, and fit on all samples. X (n, p) dense or sparse, y (n,) of two classes."""
        X, y, weight = self._checked(X, y, sample_weight)
        check_classification_targets(y)
        self.classes_, index = np.unique(y, return_inverse=True)
        present = np.unique(index[weight > 0])
        if len(self.classes_) > 2:
            raise ValueError(
                "Only binary classification is supported. The type of the target is multiclass."
            )
        if len(present) < 2:
            raise ValueError(
                f"{type(self).__name__} needs samples of two classes; the data hold one class only."
            )
        signs = 2.0 * index - 1
        judge = self._judge(self._folds(X, signs, weight, index), L1)
        largest = self._largest(X, signs, weight, L1(np.array(1.0)))
        found = self._alpha(judge, largest, None)
        self._finish(X, signs, weight, L1(np.asarray(found.alpha)), found)
        self.coef_, self.intercept_ = self._coef[None], np.array([self._shift])
        self.loss_path_ = self._errors
        self.n_iter_ = judge.evaluations
        del self._coef, self._shift, self._errors
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Xβ + b: the logarithm of the odds of the second class."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", reset=False, dtype=[np.float64, np.float32])
        return safe_sparse_dot(X, self.coef_[0]) + self.intercept_[0]

    def predict(self, X: Any) -> np.ndarray:
        """The more likely class."""
        second = self.decision_function(X) > 0
        return self.classes_[second.astype(np.intp)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of both classes, (n, 2)."""
        odds = self.decision_function(X)
        return np.exp(-np.logaddexp(0.0, np.stack([odds, -odds], axis=1)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.classifier_tags.multi_class = False
        return tags
