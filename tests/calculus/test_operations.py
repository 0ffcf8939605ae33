"""Every operation of the calculus on random programs, against brute force over all choices at ties.

``make test`` runs some 350 programs here, 500 with those of the other files; CONSERVAX_PROGRAMS=5000
(or ``make fuzz``) runs that many here.
"""

import os
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import conservax as cx
from conservax import errors
from helpers import OPERATIONS, Program, assert_same_set, at, points, programs

PROGRAMS = int(os.environ.get("CONSERVAX_PROGRAMS", "0"))
NEW = (
    "cond mask sign compound select interp scatter_max sort top_k cummax cummin max_pool min_pool "
    "add sub scale abs max"
).split()
ORIGIN = (Fraction(0), Fraction(0))
MAX_CHOICES = 600
DIRECTIONS = st.lists(points(2), min_size=2, max_size=2)


def share(of_350: int) -> settings:
    """This property's part of the programs: ``of_350`` in ``make test``, in proportion when asked."""
    count = of_350 * PROGRAMS // 350 if PROGRAMS else of_350
    return settings(max_examples=max(1, count), suppress_health_check=list(HealthCheck))


def agree(program: Program, fun, xs, directions) -> None:
    """Vertices, one-sided derivatives and JAX's element of ``fun``, whose straight line is ``program``."""
    jacobian, derivative = cx.conservative_jacobian(fun), jax.jacobian(fun)
    for x in xs:
        if program.choices(x) > MAX_CHOICES:  # more than brute force is for
            continue
        J = jacobian(at(x))
        assert_same_set(J.vertices(), program.jacobians(x))
        # JAX's top_k puts 0 before −0, which are one number here: an element of the set all the same
        if all(i.operation != "top_k" for i in program.instructions):
            np.testing.assert_allclose(J.element("jax"), derivative(at(x)), atol=1e-12)
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
    @given(
        programs(outputs=2, length=3, kinks=2, operations=(name, "add", "scale")),
        points(2),
        DIRECTIONS,
    )
    def holds(program: Program, x, directions):
        agree(program, program.to_jax(), [x, ORIGIN], directions)

    holds()


@share(60)
@given(programs(outputs=2, kinks=4), points(2), DIRECTIONS)
def test_programs_of_all_operations(program: Program, x, directions):
    agree(program, program.to_jax(), [x, ORIGIN], directions)


@share(40)
@given(programs(outputs=2, kinks=4, operations=NEW), points(2), DIRECTIONS)
def test_programs_under_jit_and_vmap(program: Program, x, directions):
    fun = jax.jit(lambda x: jax.vmap(program.to_jax())(x[None])[0])
    agree(program, fun, [x, ORIGIN], directions)


@share(25)
@given(
    programs(outputs=2, length=4, kinks=2),
    st.sampled_from([(2,), (3,), (2, 1), (1, 2)]),
    points(2),
    DIRECTIONS,
)
def test_scans_of_programs(program: Program, lengths, x, directions):
    fun, written_out = program.scanned(*lengths), program.repeated(int(np.prod(lengths)))
    agree(written_out, fun, [x, ORIGIN], directions)


@share(8)
@given(
    programs(outputs=2, length=3, kinks=1, operations=NEW),
    programs(outputs=2, length=3, kinks=1, operations=NEW),
    points(2),
    DIRECTIONS,
)
def test_programs_before_and_after_a_nested_scan(first: Program, body: Program, x, directions):
    before, loop = first.to_jax(), body.scanned(2, 1)
    agree(
        first.then(body.repeated(2)),
        lambda x: loop(jnp.asarray(before(x))),
        [x, ORIGIN],
        directions,
    )
