"""Choose penalties by gradient instead of by grid: diabetes, breast cancer, handwritten digits.

Three data sets that come with scikit-learn, each fitted by an estimator of ``conservax.sparse`` and by
scikit-learn's own that tries a grid. The estimators take the same folds and the same criterion; what is
compared is the error they reach and how many penalties they had to try.

Run:  python examples/sparse_search.py [--out PATH.png]
"""

import argparse
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.linear_model import LassoCV, LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict

from conservax.sparse import LassoSearchCV, SparseLogisticSearchCV, plot_path, plot_search

GRID = np.geomspace(1, 1e-4, 15)  # of α/α_max


class Data(NamedTuple):
    """Standardised features (n, p), targets (n,), and the features' names."""

    X: np.ndarray
    y: np.ndarray
    names: list[str]


def standardised(X: np.ndarray, y: np.ndarray, names: Any) -> Data:
    """Columns with mean zero and deviation one; constant ones dropped."""
    keep = X.std(0) > 0
    X = X[:, keep]
    return Data((X - X.mean(0)) / X.std(0), y, list(np.asarray(names)[keep]))


def diabetes() -> Data:
    """Ten measurements of 442 patients, and how their disease progressed."""
    bunch = load_diabetes()
    return standardised(bunch.data, bunch.target, bunch.feature_names)


def breast_cancer() -> Data:
    """Thirty shapes of cell nuclei in 569 tumours, malignant or benign."""
    bunch = load_breast_cancer()
    return standardised(bunch.data, bunch.target, bunch.feature_names)


def digits() -> Data:
    """The 64 pixels of 357 handwritten threes and eights."""
    bunch = load_digits()
    chosen = np.isin(bunch.target, (3, 8))
    return standardised(bunch.data[chosen], bunch.target[chosen], np.arange(64))


def regression(data: Data) -> tuple[LassoSearchCV, float, int]:
    """Our search, and the least error of ``LassoCV`` with the number of penalties it tried."""
    folds = KFold(5, shuffle=True, random_state=0)
    ours = LassoSearchCV(cv=folds, certify="path").fit(data.X, data.y)
    theirs = LassoCV(cv=folds, alphas=100, tol=1e-8, max_iter=100_000).fit(data.X, data.y)
    sizes = [len(out) for _, out in folds.split(data.X)]
    return ours, float(np.average(theirs.mse_path_, axis=1, weights=sizes).min()), 100


def classification(data: Data) -> tuple[SparseLogisticSearchCV, float, int]:
    """Our search, and the least cross-validated log loss on a grid of scikit-learn's fits."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    ours = SparseLogisticSearchCV(cv=folds, alpha_min_ratio=1e-4).fit(data.X, data.y)
    n = len(data.y)
    losses = []
    for alpha in GRID * ours.alphas_.max():
        fit = LogisticRegression(
            C=1 / (0.8 * n * alpha), l1_ratio=1.0, solver="saga", tol=1e-3, max_iter=500
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a grid point that is not solved to the end
            odds = cross_val_predict(fit, data.X, data.y, cv=folds, method="predict_proba")
        losses.append(log_loss(data.y, odds))
    return ours, min(losses), len(GRID)


def tell(name: str, what: str, ours: Any, theirs: float, tried: int) -> None:
    """One paragraph of the story."""
    live = np.count_nonzero(ours.coef_)
    print(f"{name}: {live} of {ours.coef_.size} features, α = {ours.alpha_:.5g}")
    print(f"  held-out {what}  {ours.certificate_.error:.6g} after {ours.n_iter_} evaluations")
    print(f"  scikit-learn's   {theirs:.6g} after {tried}")
    print(f"  {ours.certificate_}\n")


def draw(data: Data, models: dict[str, Any], out: Path) -> None:
    """The diabetes path, and the three searches."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    plot_path(data.X, data.y, 1e-2, names=data.names, axes=axes[0, 0])
    axes[0, 0].axvline(models["diabetes"].alpha_, color="#c0362c", lw=1.2)
    axes[0, 0].set_title("Diabetes: the exact path, its kinks, and the choice (red)")
    for ax, (name, model) in zip(axes.ravel()[1:], models.items(), strict=True):
        plot_search(model, axes=ax)
        ax.set_title(f"{name.capitalize()}: held-out error over α")
    figure.savefig(out, dpi=130)
    plt.close(figure)


def main(out: Path | None = None) -> None:
    """Tell the story; draw it if `out` is given."""
    patients = diabetes()
    models: dict[str, Any] = {}
    models["diabetes"], theirs, tried = regression(patients)
    tell("Diabetes", "squared error", models["diabetes"], theirs, tried)
    for name, load in (("breast cancer", breast_cancer), ("digits, 3 or 8", digits)):
        models[name], theirs, tried = classification(load())
        tell(name.capitalize(), "log loss", models[name], theirs, tried)
    if out is not None:
        draw(patients, models, out)
        print(f"The paths and the searches: {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".png"))
    main(parser.parse_args().out)
