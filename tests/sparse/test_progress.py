"""The progress bar of the searches."""

import io
import pickle
import re

import numpy as np
import pytest

from conservax.sparse import (
    ElasticNetSearchCV,
    LassoSearchCV,
    SparseLogisticSearchCV,
    WeightedLassoSearchCV,
)
from conservax.sparse.estimators.progress import Progress

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6))
Y = X[:, 0] - X[:, 1] + 0.3 * RNG.normal(size=40)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_has_one_line_that_is_rewritten():
    stream = Terminal()
    bar = Progress("Search", 4, stream)
    bar.step("error 0.125")
    bar.step("error 0.1")
    bar.close()
    first, second = stream.getvalue().split("\r")[1:]
    assert first == "[Search] #####--------------- 1/4 error 0.125"
    assert second.rstrip() == "[Search] ##########---------- 2/4 error 0.1"
    assert len(second.rstrip("\n")) == len(first)  # nothing of the longer line is left
    assert second.endswith("\n")


@pytest.mark.parametrize(
    "model",
    [
        LassoSearchCV(cv=3),
        LassoSearchCV(cv=3, certify="path"),
        ElasticNetSearchCV(cv=3, max_iter=4),
        WeightedLassoSearchCV(cv=3, max_iter=3),
        SparseLogisticSearchCV(cv=3),
    ],
)
def test_the_bar_counts_every_evaluation_and_never_overflows(model, capsys):
    y = Y > 0 if isinstance(model, SparseLogisticSearchCV) else Y
    model.set_params(verbose=1).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    counts = [re.search(r"\] #*-* (\d+)/(\d+) ", line).groups() for line in lines]
    totals = {int(total) for _, total in counts}
    assert [int(done) for done, _ in counts] == list(range(1, len(counts) + 1))
    assert len(totals) == 1
    assert len(counts) <= totals.pop()
    pickle.loads(pickle.dumps(model))
    model.set_params(verbose=0).fit(X, y)
    assert capsys.readouterr().out == ""
