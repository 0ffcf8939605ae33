"""Every operation of the calculus on random programs, against brute force over all choices at ties.

``make test`` runs some 270 programs here, ten of each operation alone and 80 of all; CONSERVAX_PROGRAMS=5000
(or ``make fuzz``, which ``make test-all`` includes) runs that many here.
"""

import math
import os
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conservax import errors
from helpers import OPERATIONS, Program, assert_same_set, at, points, programs
from side_by_side import SideBySide

PROGRAMS = int(os.environ.get("CONSERVAX_PROGRAMS", "120"))
NEW = (
    "cond mask sign compound select interp scatter_max sort top_k cummax cummin max_pool min_pool "
    "add sub scale abs max"
).split()
ORIGIN = (Fraction(0), Fraction(0))
MAX_CHOICES = 600
TOGETHER = 10  # programs that are compiled as one
DIRECTIONS = st.lists(points(2), min_size=2, max_size=2)


def share(of_350: int) -> settings:
    """This property's part of the programs, ``of_350`` in 350.

    An example is ``TOGETHER`` programs, compiled as one.
    """
    count = math.ceil(of_350 * PROGRAMS / 350 / TOGETHER)
    return settings(max_examples=count, suppress_health_check=list(HealthCheck))


def cases(*program: st.SearchStrategy) -> st.SearchStrategy:
    """What makes one program, with a point and directions, as often as are compiled together.

    Hypothesis begins with the simplest program in every place, which would be an example lost.
    """
    several = st.lists(
        st.tuples(*program, points(2), DIRECTIONS), min_size=TOGETHER, max_size=TOGETHER
    )
    return several.filter(lambda drawn: any(case[:-2] != drawn[0][:-2] for case in drawn))


def agree(programs: list[Program], functions, xs, directions) -> None:
    """Vertices, one-sided derivatives and JAX's element of functions, whose straight lines are ``programs``.

    Every other one starts at the origin and is seen at its point later, so that both have as many kinks.
    """
    side_by_side = SideBySide(functions)
    for turn in (0, 1):
        at_origin = [p % 2 == turn for p in range(len(programs))]
        where = [ORIGIN if zero else x for zero, x in zip(at_origin, xs, strict=True)]
        places = [at(x) for x in where]
        sets, derivatives = side_by_side.sets(places), side_by_side.derivatives(places)
        for case in zip(programs, where, sets, derivatives, directions, strict=True):
            agrees(*case)


def agrees(program: Program, x, J, derivative, directions) -> None:
    """One set against brute force at x."""
    if program.choices(x) > MAX_CHOICES:  # more than brute force is for
        return
    assert_same_set(J.vertices(), program.jacobians(x))
    # JAX's top_k puts 0 before −0, which are one number here: an element of the set all the same
    if all(i.operation != "top_k" for i in program.instructions):
        np.testing.assert_allclose(J.element("jax"), derivative, atol=1e-12)
    for v in directions:
        try:
            actual = J.directional([float(c) for c in v])
        except errors.UnsupportedOperationError as error:
            # a comparison that the direction does not move decides nothing to first order
            assert "comparison" in str(error)  # noqa: PT017
        else:
            np.testing.assert_allclose(actual, program.directional(x, v), atol=1e-9)


@pytest.mark.parametrize("name", [n for n in OPERATIONS if n not in ("constant", "add", "sub")])
def test_each_operation_alone(name):
    @share(10)
    @given(cases(programs(outputs=2, length=3, kinks=2, operations=(name, "add", "scale"))))
    def holds(drawn):
        several, xs, directions = zip(*drawn, strict=True)
        agree(several, [p.to_jax() for p in several], xs, directions)

    holds()


@share(60)
@given(cases(programs(outputs=2, kinks=4)))
def test_programs_of_all_operations(drawn):
    several, xs, directions = zip(*drawn, strict=True)
    agree(several, [p.to_jax() for p in several], xs, directions)


def under_jit_and_vmap(program: Program):
    return jax.jit(lambda x: jax.vmap(program.to_jax())(x[None])[0])


@share(40)
@given(cases(programs(outputs=2, kinks=4, operations=NEW)))
def test_programs_under_jit_and_vmap(drawn):
    several, xs, directions = zip(*drawn, strict=True)
    agree(several, [under_jit_and_vmap(p) for p in several], xs, directions)


@share(25)
@given(cases(programs(outputs=2, length=4, kinks=2), st.sampled_from([(2,), (3,), (2, 1), (1, 2)])))
def test_scans_of_programs(drawn):
    steps, lengths, xs, directions = zip(*drawn, strict=True)
    loops = [p.scanned(*n) for p, n in zip(steps, lengths, strict=True)]
    written_out = [p.repeated(int(np.prod(n))) for p, n in zip(steps, lengths, strict=True)]
    agree(written_out, loops, xs, directions)


def after(first: Program, loop):
    before = first.to_jax()
    return lambda x: loop(jnp.asarray(before(x)))


@share(8)
@given(
    cases(
        programs(outputs=2, length=3, kinks=1, operations=NEW),
        programs(outputs=2, length=3, kinks=1, operations=NEW),
    )
)
def test_programs_before_and_after_a_nested_scan(drawn):
    firsts, bodies, xs, directions = zip(*drawn, strict=True)
    pairs = list(zip(firsts, bodies, strict=True))
    agree(
        [first.then(body.repeated(2)) for first, body in pairs],
        [after(first, body.scanned(2, 1)) for first, body in pairs],
        xs,
        directions,
    )
