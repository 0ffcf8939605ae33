"""Sparse logistic regression, its penalty searched for."""

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from ...solvers.threads import one_blas_thread
from ..datafits import Datafit, Logistic
from ..penalties import L1
from .base import Search


class SparseLogisticSearchCV(ClassifierMixin, Search):
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

    @one_blas_thread()
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
        judge = self._judge(X, signs, weight, L1, index)
        largest, above = self._largest(X, signs, weight, L1(np.array(1.0)))
        found = self._alpha(judge, largest, None, above)
        self._finish(X, signs, weight, judge, {"alpha": np.asarray(found.alpha)}, found)
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
