"""Every primitive of JAX's: smooth ones against differences, at their edges refused, none passed over."""

import jax
import jax.numpy as jnp
import jax.scipy as jsp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import jaxpr_as_fun, jaxprs_in_params, primitives

import conservax as cx
from conservax import errors
from conservax.calculus.operations.treatment import (
    CONSTANT,
    EDGED,
    GIVEN,
    JUMPS,
    KINKED,
    OPENED,
    REFUSED,
    SMOOTH,
    STEERS,
    treatment,
)

NAMES = sorted({p.name for p in vars(primitives).values() if hasattr(p, "get_bind_params")})
POINT = np.array([0.3, 0.55, 0.7, 0.2])


def matrix(x):
    return x.reshape(2, 2) + 2 * jnp.eye(2)


def complexes(x):
    return lax.complex(x[:2] + 1, x[2:])


def on_complex(f):
    return lambda x: jnp.concatenate([jnp.real(f(complexes(x))), jnp.imag(f(complexes(x)))])


def reduce_precision(x):
    return lax.reduce_precision(x, 11, 52)


# what runs the primitive, on four numbers between 0 and 1; several where the form matters
CASES = {
    "acos": [lax.acos, on_complex(lax.acos)],
    "acosh": [lambda x: lax.acosh(x + 1), on_complex(lambda z: lax.acosh(z + 1))],
    "add": [lambda x: x + x[::-1]],
    "add_any": [lambda x: jax.vjp(lambda y: y * y[::-1], x)[1](x)[0]],
    "asin": [lax.asin, on_complex(lax.asin)],
    "asinh": [lax.asinh, on_complex(lax.asinh)],
    "atan": [lax.atan, on_complex(lax.atan)],
    "atan2": [lambda x: lax.atan2(x - 1, x[::-1] - 2)],
    "atanh": [lax.atanh, on_complex(lax.atanh)],
    "bessel_i1e": [jsp.special.i1e, lambda x: jsp.special.i1e(0 * x + x - POINT)],
    "broadcast_in_dim": [lambda x: jnp.broadcast_to(x, (2, 4))],
    "cbrt": [lax.cbrt],
    "cholesky": [lambda x: jnp.linalg.cholesky(matrix(x) @ matrix(x).T)],
    "complex": [on_complex(lambda z: z * z)],
    "concatenate": [lambda x: jnp.concatenate([x, 2 * x])],
    "conj": [on_complex(lambda z: jnp.conj(z) * z * z)],
    "conv_general_dilated": [lambda x: jnp.convolve(x, x[:2])],
    "convert_element_type": [lambda x: (x.astype(jnp.complex128) * (1 + 2j)).real],
    "copy": [lambda x: jnp.array(x, copy=True) * x],
    "cos": [lax.cos, on_complex(lax.cos)],
    "cosh": [lax.cosh, on_complex(lax.cosh)],
    "cumlogsumexp": [lax.cumlogsumexp],
    "cumprod": [lax.cumprod, lambda x: lax.cumprod(x - x[1])],
    "cumsum": [lax.cumsum],
    "device_put": [lambda x: jax.device_put(x) * x],
    "digamma": [lax.digamma],
    "div": [lambda x: x / x[::-1]],
    "dot_general": [lambda x: matrix(x) @ x[:2]],
    "dynamic_slice": [lambda x: lax.dynamic_slice(x * x, (1,), (2,))],
    "dynamic_update_slice": [lambda x: lax.dynamic_update_slice(x * x, x[:2], (1,))],
    "erf": [lax.erf],
    "erf_inv": [lax.erf_inv],
    "erfc": [lax.erfc],
    "exp": [lax.exp, on_complex(lax.exp)],
    "exp2": [lax.exp2],
    "expm1": [lax.expm1],
    "fft": [lambda x: jnp.abs(jnp.fft.fft(x)) ** 2],
    "gather": [lambda x: (x * x)[jnp.array([2, 0])]],
    "igamma": [lambda x: lax.igamma(jnp.asarray([1.5, 2, 0.7, 1]), x)],
    "igammac": [lambda x: lax.igammac(jnp.asarray([1.5, 2, 0.7, 1]), x)],
    "imag": [lambda x: jnp.imag(complexes(x) ** 2)],
    "integer_pow": [lambda x: x**3, lambda x: x**-2, on_complex(lambda z: z**3)],
    "lgamma": [lax.lgamma],
    "log": [lax.log, on_complex(lax.log)],
    "log1p": [lax.log1p, on_complex(lax.log1p)],
    "logistic": [lax.logistic],
    "mul": [lambda x: x * x[::-1]],
    "name": [lambda x: checkpoint_name(x * x, "kept")],
    "neg": [lambda x: -(x * x)],
    "pad": [lambda x: jnp.pad(x * x, 1)],
    "polygamma": [lambda x: lax.polygamma(jnp.ones(4), x)],
    "pow": [lambda x: x ** x[::-1], lambda x: x**1.5, on_complex(lambda z: z ** (1.5 + 0.5j))],
    "qr": [lambda x: jnp.concatenate(jnp.linalg.qr(matrix(x)))],
    "real": [lambda x: jnp.real(complexes(x) ** 2)],
    "reduce_precision": [lambda x: reduce_precision(x) * 2],
    "reduce_prod": [jnp.prod, lambda x: jnp.prod(x - POINT)],
    "reduce_sum": [lambda x: jnp.sum(x * x)],
    "reduce_window_sum": [lambda x: lax.reduce_window(x * x, 0.0, lax.add, (2,), (1,), "VALID")],
    "regularized_incomplete_beta": [lambda x: lax.betainc(jnp.full(4, 2.0), jnp.full(4, 1.5), x)],
    "reshape": [lambda x: (x * x).reshape(2, 2)],
    "rev": [lambda x: (x * x)[::-1]],
    "rsqrt": [lax.rsqrt, on_complex(lax.rsqrt)],
    "scatter": [lambda x: x.at[1].set(x[0] * x[2])],
    "scatter-add": [lambda x: x.at[jnp.array([1, 1])].add(x[:2] * x[2])],
    "scatter-mul": [lambda x: x.at[jnp.array([1, 2])].mul(x[:2], unique_indices=True)],
    "select_n": [lambda x: jnp.where(jnp.array([True, False, True, False]), x * x, 3 * x)],
    "sin": [lax.sin, on_complex(lax.sin)],
    "sinh": [lax.sinh, on_complex(lax.sinh)],
    "slice": [lambda x: (x * x)[1:3]],
    "sqrt": [lax.sqrt, on_complex(lax.sqrt)],
    "square": [lax.square],
    "squeeze": [lambda x: jnp.squeeze(x[None] * 2)],
    "sub": [lambda x: x - x[::-1] ** 2],
    "tan": [lax.tan],
    "tanh": [lax.tanh, on_complex(lax.tanh)],
    "transpose": [lambda x: (x * x).reshape(2, 2).T],
    "triangular_solve": [lambda x: jsp.linalg.solve_triangular(matrix(x), x[:2])],
    "tridiagonal_solve": [
        lambda x: lax.linalg.tridiagonal_solve(x * x, x + 3, x[::-1], x[:, None])
    ],
    "eigh": [
        lambda x: jnp.concatenate([a.ravel() for a in jnp.linalg.eigh(matrix(x) + matrix(x).T)])
    ],
    "svd": [
        lambda x: jnp.linalg.svd(matrix(x), compute_uv=False),
        lambda x: jnp.linalg.svd(matrix(x))[2],
    ],
    "custom_linear_solve": [lambda x: jnp.linalg.solve(matrix(x), x[:2])],
}
# Smooth ones with nothing to differentiate on one machine.
NO_CASE = {"psum": "needs a mapped axis", "sharding_constraint": "needs a mesh"}
# JAX's own derivative rules that count as smooth.
RULES = {
    "_softmax": jax.nn.softmax,
    "log1mexp": jax.nn.log1mexp,
    "_i0": lambda x: jnp.i0(x - POINT),
    "_sinc_maclaurin": lambda x: jnp.sinc(x - POINT),
    "_det": lambda x: jnp.linalg.det(x.reshape(2, 2)),
    "_slogdet": lambda x: jnp.stack(jnp.linalg.slogdet(matrix(x))),
    "_slogdet of three": lambda x: jnp.stack(jnp.linalg.slogdet(jnp.diag(x[:3]) + x[3])),
    "_slogdet, qr": lambda x: jnp.stack(jnp.linalg.slogdet(matrix(x), method="qr")),
    "_pinv": lambda x: jnp.linalg.pinv(jnp.concatenate([matrix(x), x[None, :2]])),
    "_frexp": lambda x: jnp.frexp(x)[0],
    "logaddexp": lambda x: jnp.logaddexp(x, x[::-1] ** 2),
    "logaddexp2": lambda x: jnp.logaddexp2(x, x[::-1] ** 2),
    "logit": jsp.special.logit,
    "xlogy": lambda x: jsp.special.xlogy(x, x[::-1]),
    "xlog1py": lambda x: jsp.special.xlog1py(x, x[::-1]),
    "_xlogx": jsp.special.entr,
    "zeta": lambda x: jsp.special.zeta(2.5, x),
    "log_ndtr": lambda x: jsp.special.log_ndtr(x - 0.5),
    "expi": jsp.special.expi,
    "sici": lambda x: jnp.stack(jsp.special.sici(x)),
    "expn": lambda x: jsp.special.expn(2, x),
    "fresnel": lambda x: jnp.stack(jsp.special.fresnel(x)),
    "hyp1f1": lambda x: jsp.special.hyp1f1(1.5, 2.5, x),
}


def used(jaxpr):
    """The names of the primitives that a jaxpr runs, those of its calls included."""
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        for inner in jaxprs_in_params(eqn.params):
            yield from used(inner)


def test_every_primitive_is_smooth_kinked_refused_or_given():
    """None is passed over, and every smooth one has a case."""
    kinds = {name: treatment(name) for name in NAMES}
    assert set(kinds.values()) == {
        SMOOTH, EDGED, KINKED, JUMPS, STEERS, CONSTANT, OPENED, GIVEN, REFUSED,
    }  # fmt: skip
    smooth = {n for n, kind in kinds.items() if kind in (SMOOTH, EDGED)}
    assert smooth <= {*CASES, *NO_CASE}
    assert {n for n in CASES if kinds[n] in (REFUSED, CONSTANT)} == set()
    for name, cases in CASES.items():
        assert any(name in used(jax.make_jaxpr(f)(POINT).jaxpr) for f in cases), name


def flat(cases):
    return lambda x: jnp.concatenate([jnp.ravel(f(x)) for f in cases])


@pytest.mark.parametrize("part", range(4))
def test_smooth_primitives_and_rules_against_differences(part):
    everything = [f for cases in CASES.values() for f in cases] + list(RULES.values())
    cases = everything[part::4]
    fun, h = flat(cases), 1e-6
    J = cx.conservative_jacobian(fun)(POINT)
    steps = np.concatenate([np.eye(4), -np.eye(4)]) * h
    values = np.asarray(jax.jit(jax.vmap(fun))(POINT + steps))
    differences = (values[:4] - values[4:]).T / (2 * h)
    np.testing.assert_allclose(J.element("jax"), differences, rtol=2e-6, atol=2e-6)
    assert J.clarke_exact


def unknown(name):
    """Programs that reach primitives the calculus does not know."""
    return {
        "nextafter": lambda x: jnp.nextafter(x, 2 * x),
        "eig": lambda x: jnp.linalg.eig(x.reshape(2, 2))[0].real,
        "schur": lambda x: jsp.linalg.schur(x.reshape(2, 2))[0],
        "igamma_grad_a": lambda x: lax.igamma_grad_a(x, x),
        "random_gamma": lambda x: jax.random.gamma(jax.random.key(0), x),
        "lu": lambda x: jsp.linalg.lu(x.reshape(2, 2))[2],
        "bitcast_convert_type": lambda x: lax.bitcast_convert_type(
            lax.bitcast_convert_type(x, jnp.int64), jnp.float64
        ),
        "max": lambda x: lax.max(complexes(x), complexes(x[::-1])).real,
        "householder_product": lambda x: lax.linalg.householder_product(matrix(x), x[:2]),
        "zeta": lambda x: lax.zeta(x + 2, x),
    }[name]


@pytest.mark.parametrize(
    "name",
    "nextafter eig schur igamma_grad_a random_gamma lu bitcast_convert_type max householder_product "
    "zeta".split(),
)
def test_what_is_not_known_is_refused_by_name(name):
    fun = unknown(name)
    assert name in used(jax.make_jaxpr(fun)(POINT).jaxpr)
    with pytest.raises(errors.UnsupportedOperationError, match=f"'{name}'"):
        cx.conservative_jacobian(fun)(POINT)


def test_rules_that_are_not_listed_are_given():
    """JAX's own root finder holds an equation of the user's, with kinks that its rule does not see."""

    def root(x):
        return lax.custom_root(
            lambda y: y + jnp.abs(y) - x,
            x,
            lambda f, y: y / 2,
            lambda g, b: b / g(1.0),
        )

    J = cx.conservative_jacobian(root)(1.0)
    assert J.clarke_exact is None
    assert [name for name, _ in J.form.given_rules] == ["_custom_root"]


def test_a_kink_inside_the_matrix_of_a_linear_solve_is_refused():
    def solve(t):
        return lax.custom_linear_solve(
            lambda y: jnp.maximum(t, 1.0) * y,
            jnp.ones(()),
            lambda mv, b: b / mv(1.0),
            symmetric=True,
        )

    with pytest.raises(errors.UnsupportedOperationError, match="'max' inside the matrix"):
        cx.conservative_jacobian(solve)(1.0)


def test_the_names_are_those_that_programs_hold():
    """``treatment`` speaks of the names in a traced program."""
    program = jax.make_jaxpr(lambda x: jnp.sort(x)[0] + jnp.floor(x[1]))(POINT)
    assert {"sort", "floor"} <= set(used(program.jaxpr)) <= set(NAMES)
    assert jaxpr_as_fun(program)(POINT)[0] == 0.2
