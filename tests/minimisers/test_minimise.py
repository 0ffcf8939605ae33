"""Methods for functions with kinks: minima known in closed form, certificates that recheck."""

import numpy as np
import pytest

import conservax as cx
from conservax.reproduce import nonsmooth_functions as nonsmooth

METHODS = ("bfgs", "bundle", "gradient_sampling", "min_norm")


def relative(problem, n, result):
    best = problem.minimum(n)
    return (result.stats.value - best) / max(1.0, abs(best))


@pytest.mark.parametrize("problem", nonsmooth.CONVEX, ids=lambda p: p.name)
def test_the_convex_ones_are_solved_and_certified(problem):
    n = 10
    result = cx.minimise(problem.fun, problem.start(n), tol=1e-4, radius=10.0)
    assert -1e-12 <= relative(problem, n, result) <= 1e-6
    assert result.stats.evaluations <= 5000
    assert result.certificate.recheck()
    assert result.stats.gap >= result.stats.value - problem.minimum(n)


@pytest.mark.parametrize("method", ["bfgs", "bundle"])
def test_fifty_variables(method):
    n = 50
    for problem in nonsmooth.CONVEX[1:]:
        result = cx.minimise(problem.fun, problem.start(n), method=method, tol=1e-4)
        assert relative(problem, n, result) <= 1e-6
        assert result.certificate.recheck()


def test_bundles_evaluate_less_than_bfgs():
    n, fewer = 50, 0
    for problem in nonsmooth.CONVEX[1:]:
        best = problem.minimum(n)
        reached = []
        for method in ("bundle", "bfgs"):
            history = cx.minimise(problem.fun, problem.start(n), method=method).stats.history
            reached.append(np.argmax((history - best) / max(1, abs(best)) <= 1e-6))
        fewer += reached[0] < reached[1]
    assert fewer >= 3
