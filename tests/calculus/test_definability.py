"""Definability on a labelled list of programs, and against difference quotients."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import conservax as cx
from calculus.definable_programs import PROGRAMS
from conservax import errors
from conservax.calculus.definable import ranges as rg
from conservax.calculus.definable.dictionaries import ORDER, join
from helpers import line_of

BLACK_BOX = {"callback"}


def test_the_labelled_list():
    assert len(PROGRAMS) >= 150
    wrong = {}
    for name, fun, point, dictionary, here, everywhere, reason in PROGRAMS:
        report = cx.definability(fun, point)
        found = report.dictionary, report.lipschitz, report.everywhere
        if found != (dictionary, here, everywhere):
            wrong[name] = found, reason
        # whatever is not so is named with its line
        assert report.lipschitz or report.offending, name
        assert report.everywhere or report.elsewhere, name
        assert report.definable or report.offending, name
    assert wrong == {}


def largest_quotients(fun, point, scales):
    """The largest |f(x) − f(y)|/|x − y| among random pairs around the point, for each scale."""
    point = np.asarray(point, np.float64)
    rng = np.random.default_rng(0)
    pairs = rng.normal(size=(len(scales), 24, 2, *point.shape))
    pairs[:, :4, 1] = -pairs[:, :4, 0]
    pairs[:, 4:8, 1] = 0  # the point itself
    x = point + np.asarray(scales).reshape(-1, *(1,) * (pairs.ndim - 1)) * pairs
    x[:, 8:16] = np.where(rng.uniform(size=x[:, 8:16].shape) < 0.5, point, x[:, 8:16])
    flat = x.reshape(-1, *point.shape)
    values = np.asarray(jax.jit(jax.vmap(fun))(jnp.asarray(flat)), np.float64)
    values = values.reshape(*x.shape[:3], -1)
    rise = np.linalg.norm(values[:, :, 0] - values[:, :, 1], axis=-1)
    run = np.linalg.norm((x[:, :, 0] - x[:, :, 1]).reshape(*x.shape[:2], -1), axis=-1)
    with np.errstate(all="ignore"):
        quotients = np.where(run > 0, rise / run, 0.0)
    return np.max(np.where(np.isnan(quotients), np.inf, quotients), axis=1)


def test_difference_quotients_agree_with_the_labels():
    """Of what is called Lipschitz they stay bounded; of what is labelled otherwise they grow."""
    for name, fun, point, _, here, _, reason in PROGRAMS:
        if name in BLACK_BOX or "not shown" in reason:
            continue
        coarse, fine = largest_quotients(fun, point, (1e-2, 1e-7))
        if here:
            assert fine <= 3 * max(coarse, 1), (name, coarse, fine)
        else:
            assert fine >= 2 * coarse or not math.isfinite(fine), (name, coarse, fine)


UNARY = {
    "sqrt": jnp.sqrt, "log": jnp.log, "abs": jnp.abs, "exp": lambda x: jnp.exp(jnp.minimum(x, 3)),
    "square": jnp.square, "relu": jax.nn.relu, "cbrt": jnp.cbrt, "tanh": jnp.tanh, "sign": jnp.sign,
    "reciprocal": lambda x: 1 / x, "floor": jnp.floor, "minus": lambda x: x - 1, "double": lambda x: 2 * x,
    "step": lambda x: jnp.where(x > 0, x + 1, x), "kink": lambda x: jnp.where(x > 0, 2 * x, x),
}  # fmt: skip


@given(
    st.lists(st.sampled_from(sorted(UNARY)), min_size=1, max_size=5),
    st.sampled_from([-1.0, 0.0, 0.25, 1.0]),
)
def test_chains_called_lipschitz_are(names, point):
    def chain(x):
        for name in names:
            x = UNARY[name](x)
        return x

    if cx.definability(chain, point).lipschitz:
        coarse, fine = largest_quotients(chain, point, (1e-5, 1e-8))
        assert fine <= 4 * max(coarse, 1)


def test_joins_are_those_of_a_lattice():
    for a in ORDER:
        assert join(a) == a
        assert join(a, "ALG") == a
        assert join(a, "UNKNOWN") == "UNKNOWN"
        for b in ORDER:
            assert join(a, b) == join(b, a)
            assert all(join(join(a, b), c) == join(a, join(b, c)) for c in ORDER)
    assert join("AN", "EXP") == "AN_EXP"
    assert join("AN_EXP", "PFAFFIAN") == "PFAFFIAN"


def test_offences_carry_operation_line_and_reason():
    def fun(x):
        root = jnp.sqrt(x)  # the root
        return root + jnp.sin(x)  # the sine

    report = cx.definability(fun, 0.0)
    operation, place, why = report.offending[0]
    assert operation == "sqrt"
    assert place == f"test_definability.py:{line_of('the root', __file__)}"
    assert "unbounded" in why
    assert report.offending[1][:2] == (
        "sin",
        f"test_definability.py:{line_of('the sine', __file__)}",
    )


def test_dead_code_and_unused_branches_do_not_count():
    def fun(x):
        jnp.sqrt(x)
        return jnp.where(jnp.sum(jnp.ones(2)) > 1, x, jnp.floor(x))

    report = cx.definability(fun, 0.0)
    assert report.lipschitz
    assert report.everywhere


def test_a_box_and_all_points():
    assert cx.definability(jnp.log, 1.0, radius=0.5).lipschitz
    assert not cx.definability(jnp.log, 1.0, radius=1.0).lipschitz
    assert not cx.definability(jnp.log, 1.0, radius=math.inf).lipschitz
    with pytest.raises(errors.InvalidInputError, match="radius"):
        cx.definability(jnp.log, 1.0, radius=0.0)


def test_rules_that_are_taken_as_given_are_named():
    @jax.custom_jvp
    def mine(x):
        return x

    mine.defjvp(lambda p, t: (p[0], 2 * t[0]))
    report = cx.definability(lambda x: mine(x) + jax.lax.stop_gradient(x), 1.0)
    assert report.lipschitz
    assert {o.operation for o in report.unverified} >= {"stop_gradient"}
    assert len(report.unverified) == 2
    assert "taken as given" in str(report)
    # the shift inside logsumexp is JAX's own
    assert cx.definability(jax.nn.logsumexp, jnp.ones(3)).unverified == ()


def test_implicit_functions_are_named():
    @cx.custom_root(lambda y, a: y - jnp.tanh(y / 2 + a))
    def solve(init, a):
        return init

    report = cx.definability(lambda a: solve(0.0, a), 0.0)
    assert report.dictionary == "EXP"
    assert len(report.solves) == 1
    assert "certif" in report.solves[0].why


def test_bad_input_is_named():
    with pytest.raises(errors.InvalidInputError, match="argument 0 holds NaN"):
        cx.definability(jnp.sum, jnp.array([1.0, jnp.nan]))
    with pytest.raises(errors.InvalidInputError, match="traced"):
        jax.jit(lambda x: cx.definability(jnp.sum, x).lipschitz)(jnp.ones(2))


JUMPING = {
    "a step": (lambda x: jnp.sum(jnp.where(x > 0, 1.0, 0.0)), True),
    "a step that a later line undoes": (lambda x: jnp.sum((x > 0) * (x + 1.0) - (x > 0)), False),
    "entries that are the maximum": (lambda x: jnp.sum(x * (x == jnp.max(x))), False),
    "steep, but no jump": (
        lambda x: jnp.sum(jnp.where(jnp.sum(x) >= 0, jnp.sum(1e7 * x), jnp.sum(2e7 * x))),
        False,
    ),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", JUMPING)
def test_a_jump_is_seen_and_what_is_not_shown_is_no_jump(name, dtype):
    fun, jumps = JUMPING[name]
    report = cx.definability(fun, jnp.zeros(2, dtype))
    assert report.jumps is jumps
    assert report.lipschitz or "were not shown to give the same value" in str(report)
    assert ("It was seen to jump." in str(report)) is jumps


def test_reports_as_text_and_json():
    report = cx.definability(jnp.sqrt, 0.0)
    assert "Semialgebraic (ALG); not shown to be Lipschitz here." in str(report)
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["dictionary"] == "ALG"
    assert data["offending"][0]["operation"] == "sqrt"


def test_large_programs_stay_cheap():
    """Ten thousand parameters, a data set, a loop of a hundred steps: no entry is looked at in vain."""
    data = np.random.default_rng(0).normal(size=(500, 64)).astype(np.float32)

    def loss(params):
        h = jax.nn.relu(data @ params["w"])
        h = jax.lax.fori_loop(0, 100, lambda i, h: jnp.tanh(h @ params["u"]), h)
        return -jnp.mean(jax.nn.log_softmax(h)[:, 0])

    params = {"w": jnp.ones((64, 100), "float32"), "u": jnp.ones((100, 100), "float32")}
    report = cx.definability(loss, params)
    assert (report.dictionary, report.lipschitz, report.everywhere) == ("EXP", True, True)


SAMPLES = np.array([-3.0, -1.0, -0.5, 0.0, 0.25, 1.0, 2.0])


@given(
    st.sampled_from(
        sorted(
            [
                *rg.MONOTONE,
                "sqrt",
                "rsqrt",
                "sin",
                "cos",
                "cosh",
                "asin",
                "acos",
                "acosh",
                "floor",
                "ceil",
                "round",
                "sign",
            ]
        )
    ),
    st.floats(-4, 4),
    st.floats(0, 3),
)
def test_ranges_hold_the_values(name, low, width):
    """Against mpmath's independent values at points of the range."""
    mpmath = pytest.importorskip("mpmath")
    made = rg.elementary(name, rg.Range(np.asarray(low), np.asarray(low + width)))
    assert made is not None
    functions = {
        "exp2": lambda t: mpmath.mpf(2) ** t, "log1p": mpmath.log1p,
        "logistic": lambda t: 1 / (1 + mpmath.exp(-t)),
        "cbrt": lambda t: mpmath.sign(t) * mpmath.cbrt(abs(t)), "rsqrt": lambda t: 1 / mpmath.sqrt(t),
        "round": lambda t: mpmath.mpf(round(float(t))), "floor": mpmath.floor, "ceil": mpmath.ceil,
    }  # fmt: skip
    fun = functions.get(name) or getattr(mpmath, name)
    for t in (low, low + width / 3, low + width):
        try:
            value = fun(mpmath.mpf(t))
        except (ValueError, ZeroDivisionError):
            continue
        if isinstance(value, mpmath.mpc) or not mpmath.isfinite(value):
            continue
        assert float(made.lo) <= float(value) <= float(made.hi)


@pytest.mark.parametrize("name", sorted(rg.MONOTONE))
def test_ranges_hold_the_values_far_out(name):
    """Where a formula that cancels would be off by more than the range is widened."""
    mpmath = pytest.importorskip("mpmath")
    functions = {"exp2": lambda t: mpmath.mpf(2) ** t, "cbrt": lambda t: mpmath.sign(t) * mpmath.cbrt(abs(t)),
        "logistic": lambda t: mpmath.exp(t) / (1 + mpmath.exp(t))}  # fmt: skip
    fun = functions.get(name) or getattr(mpmath, name)
    with mpmath.workdps(400):
        for t in (-700.3, -26.1, -5.7, -0.99, -1e-9, 1e-9, 0.3, 5.7, 26.1, 700.3):
            try:
                value = fun(mpmath.mpf(t))
            except ValueError:
                continue
            if isinstance(value, mpmath.mpc):
                continue
            made = rg.elementary(name, rg.Range(np.asarray(t), np.asarray(t)))
            assert made is not None
            assert mpmath.mpf(float(made.lo)) <= value <= mpmath.mpf(float(made.hi)), t


def test_complex_arguments_vary():
    """The angle jumps at 0 and on its cut; the modulus is a norm; a logarithm is named."""
    angle = cx.definability(jnp.angle, jnp.array(0j))
    assert not angle.lipschitz
    assert [o.operation for o in angle.offending] == ["atan2"]
    modulus = cx.definability(jnp.abs, jnp.array(0j))
    assert modulus.lipschitz
    assert modulus.everywhere
    assert modulus.dictionary == "ALG"
    log = cx.definability(lambda z: jnp.log(z).real, jnp.array(0j))
    assert not log.lipschitz
    assert log.dictionary == "AN_EXP"
    # z² of a complex z is no square of a real: Re z² is negative on the imaginary axis
    assert not cx.definability(lambda z: jnp.sqrt(jnp.real(z * z)), jnp.array(0j)).lipschitz


def test_operations_on_bits_of_numbers_are_no_functions_of_reals():
    def bits(x):  # a step between neighbouring floats
        return jnp.asarray(jax.lax.bitcast_convert_type(x, jnp.int32), x.dtype)

    named = {"bitcast_convert_type": bits, "nextafter": lambda x: jnp.nextafter(x, jnp.float32(2))}
    for name, fun in named.items():
        report = cx.definability(fun, jnp.float32(1))
        assert not report.lipschitz
        assert [o.operation for o in report.offending] == [name]
    drawn = cx.definability(lambda x: x * jax.random.uniform(jax.random.key(0)), jnp.float32(1))
    assert drawn.lipschitz  # random bits do not move with x
