# ruff: noqa: E501
"""150 programs with their dictionary, whether they are Lipschitz at the point and everywhere, and why.

(name, function, point, dictionary, Lipschitz at the point, Lipschitz everywhere, reason). A label is the
mathematical truth, except where the reason says "not shown": there the function is Lipschitz and the
walk cannot know it. It must never be the other way round.
"""

import jax
import jax.numpy as jnp
import jax.scipy as jsp
from jax import lax

import conservax as cx

X = jnp.array([1.0, -2.0, 0.5])
Z = jnp.zeros(3)
M = jnp.array([[2.0, 0.3], [0.3, 1.0]])
KEY = jax.random.key(0)
W = jax.random.normal(KEY, (4, 3))


@jax.custom_jvp
def own_rule(x):
    return jnp.abs(x)


own_rule.defjvp(lambda primals, tangents: (jnp.abs(primals[0]), 7.0 * tangents[0]))


@cx.custom_root(lambda y, a: y - jax.nn.relu(y / 2 - a))
def solve(init, a):
    return jnp.maximum(0.0, -2 * a)


def huber(x):
    return jnp.where(jnp.abs(x) < 1, x**2 / 2, jnp.abs(x) - 0.5)


def safe_norm(x):
    s = jnp.sum(x**2)
    return jnp.where(s > 0, jnp.sqrt(jnp.where(s > 0, s, 1.0)), 0.0)


def project_ball(x):
    n = jnp.linalg.norm(x)
    return jnp.where(n > 1, x / n, x)


def collatz(x):
    return lax.while_loop(lambda s: jnp.abs(s) > 1, lambda s: s / 2, x)


def leading_bits(x):
    bits = lax.bitcast_convert_type(jnp.asarray(x, "float32"), jnp.int32)
    return lax.bitcast_convert_type(bits & ~0xFFFFF, jnp.float32)


def counted(x):
    return lax.while_loop(
        lambda s: (s[0] < 20) & (jnp.abs(s[1]) > 1), lambda s: (s[0] + 1, s[1] / 2), (0, x)
    )[1]


ALG = [
    ("identity", lambda x: x, 0.0, True, True, "linear"),
    ("affine", lambda x: W @ x + 1, X, True, True, "linear"),
    ("polynomial", lambda x: x**3 - 2 * x, 1.0, True, True, "a polynomial"),
    ("product", lambda x: jnp.prod(x), X, True, True, "a polynomial"),
    ("division", lambda x: 1 / x, 1.0, True, False, "the pole is at 0"),
    ("division at 0", lambda x: 1 / x, 0.0, False, False, "the pole"),
    ("safe division", lambda x: 1 / (1 + x**2), 0.0, True, True, "the denominator is at least 1"),
    ("negative power", lambda x: x**-2, 1.0, True, False, "the pole is at 0"),
    ("sqrt", jnp.sqrt, 1.0, True, False, "unbounded slope at 0 only"),
    ("sqrt at 0", jnp.sqrt, 0.0, False, False, "unbounded slope"),
    ("smooth abs", lambda x: jnp.sqrt(1 + x**2), 0.0, True, True, "the argument is at least 1"),
    ("sqrt of |x|", lambda x: jnp.sqrt(jnp.abs(x)), 0.0, False, False, "|x|^(1/2) at 0"),
    ("sqrt of |x| away", lambda x: jnp.sqrt(jnp.abs(x)), 1.0, True, False, "off 0 it is smooth"),
    ("sqrt of x²", lambda x: jnp.sqrt(x**2), 0.0, True, True, "it is |x|"),
    ("sqrt of x⁴", lambda x: jnp.sqrt(x**4), 0.0, True, True, "it is x²"),
    ("hand norm", lambda x: jnp.sqrt(jnp.sum(x**2)), Z, True, True, "the norm is 1-Lipschitz"),
    ("numpy norm", jnp.linalg.norm, Z, True, True, "the norm is 1-Lipschitz"),
    ("our norm", cx.norm, Z, True, True, "the norm is 1-Lipschitz"),
    ("norm by dot", lambda x: jnp.sqrt(x @ x), Z, True, True, "the norm is 1-Lipschitz"),
    ("norm by vdot", lambda x: jnp.sqrt(jnp.vdot(x, x)), Z, True, True, "the norm is 1-Lipschitz"),
    ("norm by power", lambda x: jnp.sum(x**2) ** 0.5, Z, True, True, "the norm is 1-Lipschitz"),
    ("sqrt of dot of two", lambda x: jnp.sqrt(x @ (2 * x + 1)), Z, False, False, "√t at 0"),
    ("sqrt of a difference", lambda x: jnp.sqrt(x[0] ** 2 - x[1] ** 2), Z, False, False, "√ of an indefinite form"),
    ("weighted norm", lambda x: jnp.sqrt(jnp.sum(3 * x**2)), Z, True, True, "a norm"),
    ("norms of rows", lambda x: jnp.linalg.norm(jnp.outer(x, x), axis=1), Z, True, True, "norms of a polynomial map"),
    ("largest square", lambda x: jnp.sqrt(jnp.max(x**2)), Z, True, True, "it is the largest |x_i|"),
    ("standard deviation", jnp.std, jnp.ones(3), True, True, "a seminorm"),
    ("variance", jnp.var, X, True, True, "a quadratic form"),
    ("normalised", lambda x: x / jnp.linalg.norm(x), X, True, False, "not continuous at 0"),
    ("normalised at 0", lambda x: x / jnp.linalg.norm(x), Z, False, False, "not continuous"),
    ("clipped norm", lambda x: x / jnp.maximum(1.0, jnp.linalg.norm(x)), Z, True, True, "the projection on the ball"),
    ("cbrt", jnp.cbrt, 1.0, True, False, "unbounded slope at 0 only"),
    ("cbrt at 0", jnp.cbrt, 0.0, False, False, "unbounded slope"),
    ("power 3/2", lambda x: jnp.abs(x) ** 1.5, 0.0, True, True, "|x|^{3/2} is C¹"),
    ("power 1/4", lambda x: jnp.abs(x) ** 0.25, 0.0, False, False, "unbounded slope"),
    ("rsqrt", lambda x: lax.rsqrt(1 + x**2), 0.0, True, True, "the argument is at least 1"),
    ("rsqrt at 0", lax.rsqrt, 0.0, False, False, "unbounded"),
    ("abs", jnp.abs, 0.0, True, True, "1-Lipschitz"),
    ("relu", jax.nn.relu, 0.0, True, True, "1-Lipschitz"),
    ("relu6", jax.nn.relu6, 6.0, True, True, "1-Lipschitz"),
    ("leaky relu", jax.nn.leaky_relu, 0.0, True, True, "the branches agree at 0"),
    ("hard tanh", jax.nn.hard_tanh, 1.0, True, True, "the branches agree at ±1"),
    ("hard sigmoid", jax.nn.hard_sigmoid, 3.0, True, True, "a relu6, scaled"),
    ("maximum", lambda x: jnp.maximum(x[0], x[1]), Z, True, True, "1-Lipschitz"),
    ("minimum", lambda x: jnp.minimum(x, 1 - x), 0.5, True, True, "1-Lipschitz"),
    ("clip", lambda x: jnp.clip(x, -1, 1), 1.0, True, True, "1-Lipschitz"),
    ("clamp", lambda x: lax.clamp(-1.0, x, 1.0), 1.0, True, True, "1-Lipschitz"),
    ("max of entries", jnp.max, Z, True, True, "1-Lipschitz"),
    ("min of entries", jnp.min, Z, True, True, "1-Lipschitz"),
    ("sort", jnp.sort, Z, True, True, "1-Lipschitz"),
    ("median", jnp.median, Z, True, True, "of sorted entries"),
    ("top k", lambda x: lax.top_k(x, 2)[0], Z, True, True, "of sorted entries"),
    ("sorted by its order", lambda x: x[jnp.argsort(x)], Z, True, True, "it is the sort"),
    ("another by the order", lambda x: (x + jnp.arange(3.0))[jnp.argsort(x)], Z, False, False, "jumps at ties"),
    ("order", lambda x: 1.0 * jnp.argsort(x), Z, False, False, "jumps at ties"),
    ("argmax", lambda x: 1.0 * jnp.argmax(x), Z, False, False, "jumps at ties"),
    ("value at the argmax", lambda x: x[jnp.argmax(x)], Z, True, True, "it is the maximum"),
    ("another at the argmax", lambda x: jnp.arange(3.0)[jnp.argmax(x)], Z, False, False, "jumps at ties"),
    ("cummax", lambda x: lax.cummax(x), Z, True, True, "maxima"),
    ("cumsum", jnp.cumsum, X, True, True, "linear"),
    ("cumprod", jnp.cumprod, X, True, True, "a polynomial"),
    ("matrix product", lambda x: jnp.outer(x, x) @ x, X, True, True, "a polynomial"),
    ("convolution", lambda x: jnp.convolve(x, x), X, True, True, "a polynomial"),
    ("fft", lambda x: jnp.real(jnp.fft.fft(x)), X, True, True, "linear"),
    ("modulus of the fft", lambda x: jnp.abs(jnp.fft.fft(x)), Z, True, True, "norms of a linear map"),
    ("root of an imaginary part at −1", lambda x: jnp.sqrt((x * 1j).imag + 1), -1.0, False, False, "it is √(x + 1)"),
    ("complex root at 0", lambda x: jnp.sqrt(x + 0j).real, 0.0, False, False, "√max(x, 0)"),
    ("complex root on its cut", lambda x: jnp.sqrt(-1 + 1j * x).imag, 0.0, False, False, "jumps from −1 to 1"),
    ("complex sign", lambda x: jnp.sign(x * 1j).imag, 0.0, False, False, "it is sign x"),
    ("complex polynomial", lambda x: (jnp.conj(x * 1j) * (x + 2j) ** 3 / 2).imag, 0.5, True, True, "a polynomial of the parts"),
    ("root of the real part of a square", lambda x: jnp.sqrt(jnp.real((x * 1j + x) * (x * 1j - x)) + 2), 1.0, False, False, "it is √(2 − 2x²)"),
    ("leading bits", leading_bits, 1.0, False, False, "piecewise constant, with a step at 1"),
    ("mantissa at 1", lambda x: jnp.frexp(x)[0], 1.0, False, False, "from 1 down to ½"),
    ("sign of a bit", lambda x: jnp.copysign(1.0, x), 0.0, False, False, "a step at 0"),
    ("concatenate", lambda x: jnp.concatenate([x, -x]), X, True, True, "linear"),
    ("gather", lambda x: x[jnp.array([0, 2, 2])], X, True, True, "linear"),
    ("scatter", lambda x: jnp.zeros(4).at[jnp.array([1, 1, 3])].add(x), X, True, True, "linear"),
    ("where relu", lambda x: jnp.where(x > 0, x, 0.0), 0.0, True, True, "the branches agree at 0"),
    ("where jump", lambda x: jnp.where(x > 0, x + 1, 0.0), 0.0, False, False, "1 and 0 at the switch"),
    ("where jump away", lambda x: jnp.where(x > 0, x + 1, 0.0), 2.0, True, False, "decided around 2"),
    ("where equal", lambda x: jnp.where(x == 0, 1.0, x), 0.0, False, False, "1 on the switch, 0 beside it"),
    ("where equal, same", lambda x: jnp.where(x == 0, 0.0, x), 0.0, True, True, "0 on the switch and beside it"),
    ("Huber", huber, 1.0, True, True, "½ on both sides of |x| = 1"),
    ("wrong Huber", lambda x: jnp.where(jnp.abs(x) < 1, x**2 / 2, jnp.abs(x)), 1.0, False, False, "½ and 1"),
    ("wrong on one side", lambda x: jnp.where(jnp.abs(x) < 1, x, 1.0), -1.0, False, False, "−1 and 1 at x = −1"),
    ("three pieces", lambda x: jnp.where(x < -1, -1.0, jnp.where(x > 1, 1.0, x)), 1.0, True, True, "a clip"),
    ("two conditions", lambda x: jnp.where((x > 0) & (x < 1), x * (1 - x), 0.0), 0.0, True, True, "0 at both switches"),
    ("two conditions, a jump", lambda x: jnp.where((x > 0) & (x < 1), x, 0.0), 1.0, False, False, "1 and 0 at 1"),
    ("select", lambda x: jnp.select([x < 0, x < 1], [0 * x, x], 1.0), 1.0, True, True, "a clip"),
    ("piecewise", lambda x: jnp.piecewise(x, [x < 0, x >= 0], [lambda t: -t, lambda t: t]), 0.0, False, False, "not shown: |x|, by a count of conditions"),
    ("mask times value", lambda x: (x > 0) * x, 0.0, True, True, "the value vanishes at the switch"),
    ("mask", lambda x: jnp.where(x > 0, 1.0, 0.0), 0.0, False, False, "a step"),
    ("two masks", lambda x: (x > 0) * x + (x <= 0) * (-x), 0.0, True, True, "|x|"),
    ("two masks, a jump", lambda x: (x > 0) * (x + 1) + (x <= 0) * x, 0.0, False, False, "1 and 0"),
    ("sign", jnp.sign, 0.0, False, False, "a step"),
    ("sign away", jnp.sign, 1.0, True, False, "constant around 1"),
    ("sign times value", lambda x: jnp.sign(x) * x, 0.0, True, True, "|x|"),
    ("soft threshold", lambda x: jnp.sign(x) * jnp.maximum(jnp.abs(x) - 1, 0), Z, True, True, "0 around the jump of the sign"),
    ("hard threshold", lambda x: jnp.where(jnp.abs(x) > 1, x, 0.0), 1.0, False, False, "1 and 0 at the switch"),
    ("safe norm", safe_norm, Z, True, True, "the norm, 0 at its switch"),
    ("false safe norm", lambda x: jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0), 0.0, False, False, "√x at 0"),
    ("limit that is no value", lambda x: jnp.where(x > 0, jnp.where(x > 0, x, 1.0) - 1, 0.0), 0.0, False, False, "−1 and 0"),
    ("ball", project_ball, jnp.array([1.0, 0.0, 0.0]), True, True, "x/1 and x at the switch"),
    ("larger by where", lambda x: jnp.where(x[0] > x[1], x[0], x[1]), Z, True, True, "the maximum"),
    ("smaller squares by where", lambda x: jnp.where(x[0] > x[1], x[0] ** 2, x[1] ** 2), Z, True, True, "equal where x₀ = x₁"),
    ("swapped by where", lambda x: jnp.where(x[0] > x[1], x[0], -x[1]), jnp.ones(2), False, False, "1 and −1"),
    ("masked sqrt", lambda x: jnp.where(x > 0, jnp.sqrt(x), 0.0), jnp.array([1.0, -1.0]), True, False, "decided entry by entry here; √ at 0"),
    ("cond", lambda x: lax.cond(x > 0, lambda y: y, lambda y: 0 * y, x), 0.0, True, True, "the branches agree at 0"),
    ("cond jump", lambda x: lax.cond(x > 0, lambda y: y + 1, lambda y: y, x), 0.0, False, False, "1 and 0"),
    ("scan of maxima", lambda x: lax.scan(lambda c, a: (jnp.maximum(c, a), c), 0.0, x)[0], Z, True, True, "maxima"),
    ("long loop", lambda x: lax.fori_loop(0, 200, lambda i, c: 0.5 * c + x, x), 1.0, True, True, "linear at each turn"),
    ("loop of sqrt", lambda x: lax.fori_loop(0, 5, lambda i, c: jnp.sqrt(c), x), 0.0, False, False, "x^{1/32} at 0"),
    ("counted while", counted, 0.5, True, False, "at most 20 turns; their number jumps, and here none is made"),
    ("eigenvalues", lambda x: jnp.linalg.eigvalsh(jnp.diag(x)), Z, True, True, "Weyl's inequality"),
    ("eigenvectors", lambda x: jnp.linalg.eigh(jnp.diag(x))[1], Z, False, False, "turn where eigenvalues meet"),
    ("singular values", lambda x: jnp.linalg.norm(jnp.outer(x, x) + jnp.eye(3), 2), Z, True, True, "Weyl's inequality"),
    ("solve", lambda x: jnp.linalg.solve(M, x), jnp.ones(2), True, True, "the matrix is fixed"),
    ("solve in the matrix", lambda a: jnp.linalg.solve(a, jnp.ones(2)), M, True, False, "singular matrices elsewhere"),
    ("solve, singular", lambda a: jnp.linalg.solve(a, jnp.ones(2)), jnp.ones((2, 2)), False, False, "singular"),
    ("inverse", jnp.linalg.inv, M, True, False, "singular matrices elsewhere"),
    ("determinant", jnp.linalg.det, jnp.eye(4), True, True, "a polynomial"),
    ("cholesky", jnp.linalg.cholesky, M, True, False, "positive definite here"),
    ("cholesky, singular", jnp.linalg.cholesky, jnp.ones((2, 2)), False, False, "√ at 0"),
    ("projection", lambda x: cx.projections.projection_simplex(x), Z, True, True, "1-Lipschitz"),
    ("our relu", lambda x: cx.projections.projection_non_negative(x), Z, True, True, "1-Lipschitz"),
    ("own rule", own_rule, 0.0, True, True, "|x|, whatever its rule says"),
    ("stopped", lambda x: x * lax.stop_gradient(x), 1.0, True, True, "x²; its derivative is another matter"),
    ("root", lambda a: solve(0.0, a), -1.0, True, True, "Lipschitz by certificate"),
    ("random numbers", lambda x: x * jax.random.normal(KEY), 1.0, True, True, "linear: the key is fixed"),
    ("integer power of a constant", lambda x: jnp.power(x, 3.0), 1.0, True, True, "a polynomial"),
    ("floor of bounded", lambda x: jnp.floor(jnp.clip(x, 0, 2)), 0.5, True, False, "finitely many steps"),
]  # fmt: skip
AN = [
    ("atan", jnp.arctan, 0.0, True, True, "analytic on the line and at infinity"),
    ("atan2", lambda x: jnp.arctan2(x[0], x[1]), jnp.array([0.0, 1.0]), True, False, "off the cut"),
    (
        "atan2 on the cut",
        lambda x: jnp.arctan2(x[0], x[1]),
        jnp.array([0.0, -1.0]),
        False,
        False,
        "jumps by 2π",
    ),
    ("asin", jnp.arcsin, 0.0, True, False, "unbounded slopes at ±1"),
    ("asin at 1", jnp.arcsin, 1.0, False, False, "unbounded slope"),
    ("acos at −1", jnp.arccos, -1.0, False, False, "unbounded slope"),
    ("sin of bounded", lambda x: jnp.sin(jnp.clip(x, -1, 1)), 0.0, True, True, "analytic on a box"),
    ("exp of bounded", lambda x: jnp.exp(jnp.clip(x, -1, 1)), 0.0, True, True, "analytic on a box"),
    ("log of bounded", lambda x: jnp.log(jnp.clip(x, 1, 2)), 1.0, True, True, "analytic on a box"),
]
EXP = [
    ("exp", jnp.exp, 0.0, True, True, "smooth"),
    ("log", jnp.log, 1.0, True, False, "unbounded at 0"),
    ("log at 0", jnp.log, 0.0, False, False, "unbounded"),
    ("x log x at 0", lambda x: x * jnp.log(x), 0.0, False, False, "slope log x"),
    (
        "guarded x log x",
        lambda x: jnp.where(x > 0, x * jnp.log(x), 0.0),
        0.0,
        False,
        False,
        "slope log x",
    ),
    ("tanh", jnp.tanh, 0.0, True, True, "smooth"),
    ("sinh", jnp.sinh, 0.0, True, True, "smooth"),
    ("asinh", jnp.arcsinh, 0.0, True, True, "log(x + √(x² + 1)): no analytic function at infinity"),
    ("acosh at 1", jnp.arccosh, 1.0, False, False, "unbounded slope"),
    ("atanh", jnp.arctanh, 0.0, True, False, "unbounded at ±1"),
    ("logistic", jax.nn.sigmoid, 0.0, True, True, "smooth"),
    ("log of logistic", lambda x: jnp.log(jax.nn.sigmoid(x)), 0.0, True, True, "sigmoid > 0"),
    ("softplus", jax.nn.softplus, 0.0, True, True, "smooth"),
    ("logsumexp", jax.nn.logsumexp, Z, True, True, "a sum of exp is positive"),
    ("softmax", jax.nn.softmax, Z, True, True, "a sum of exp is positive"),
    ("log softmax", jax.nn.log_softmax, Z, True, True, "smooth"),
    ("silu", jax.nn.silu, 0.0, True, True, "smooth"),
    ("elu", jax.nn.elu, 0.0, True, True, "the branches agree at 0"),
    ("selu", jax.nn.selu, 0.0, True, True, "the branches agree at 0"),
    ("real power", lambda x: (1 + x**2) ** 0.3, 0.0, True, True, "the base is at least 1"),
    ("varying exponent", lambda x: 2.0**x, 0.0, True, True, "the base is positive"),
    ("mish", jax.nn.mish, 0.0, True, True, "smooth"),
    (
        "determinant's logarithm",
        lambda a: jnp.log(jnp.linalg.det(a)),
        M,
        True,
        False,
        "the determinant is positive here",
    ),
]
AN_EXP = [
    ("sin of tanh", lambda x: jnp.sin(jnp.tanh(x)), 0.0, True, True, "sin on [−1, 1], after exp"),
    ("atan of exp", lambda x: jnp.arctan(jnp.exp(x)), 0.0, True, True, "smooth"),
    (
        "cos of a probability",
        lambda x: jnp.cos(jax.nn.softmax(x)),
        Z,
        True,
        True,
        "cos on a box? not shown: softmax is unbounded to the walk",
    ),
]
PFAFFIAN = [
    ("erf", lax.erf, 0.0, True, True, "erf′ = 2 exp(−x²)/√π"),
    ("exact gelu", lambda x: jax.nn.gelu(x, approximate=False), 0.0, True, True, "by erf"),
    ("erf_inv", lax.erf_inv, 0.0, True, False, "unbounded at ±1"),
]
BOUNDED = [
    ("sin", jnp.sin, 0.0, True, True, "infinitely many zeros"),
    ("tan", jnp.tan, 0.0, True, False, "poles"),
    ("floor", jnp.floor, 0.5, True, False, "infinitely many steps; constant around ½"),
    ("floor at 1", jnp.floor, 1.0, False, False, "a step"),
    ("round at ½", jnp.round, 0.5, False, False, "a step"),
    ("remainder", lambda x: x % 2.0, 1.0, True, False, "a sawtooth"),
    ("remainder at 2", lambda x: x % 2.0, 2.0, False, False, "a tooth"),
    ("gammaln", jsp.special.gammaln, 2.0, True, False, "poles at 0, −1, …"),
    ("Bessel", jsp.special.i0e, 1.0, True, True, "analytic"),
    ("complex exp", lambda x: jnp.exp(1j * x).real, 1.0, True, True, "cos"),
    (
        "root of a complex exp at π/2",
        lambda x: jnp.sqrt(jnp.exp(1j * x).real),
        jnp.pi / 2,
        False,
        False,
        "√cos x",
    ),
    (
        "floor of an imaginary part at 1",
        lambda x: jnp.floor((x * 1j).imag),
        1.0,
        False,
        False,
        "it is floor",
    ),
    ("sinc", jnp.sinc, 0.0, True, True, "analytic"),
]
UNKNOWN = [
    ("while", collatz, 0.5, True, False, "no bound on the turns; here none is made"),
    ("while at the edge", collatz, 1.0, False, False, "jumps from 1 to ½"),
    (
        "callback",
        lambda x: jax.pure_callback(lambda a: a, jax.ShapeDtypeStruct((), "float32"), x),
        0.0,
        False,
        False,
        "a black box",
    ),
]
# "cos of a probability" is AN_EXP in truth; the walk says BOUNDED, which is larger and sound
LARGER = {"cos of a probability": "BOUNDED"}
PROGRAMS = [
    (name, fun, point, LARGER.get(name, dictionary), here, everywhere, reason)
    for dictionary, programs in {
        "ALG": ALG, "AN": AN, "EXP": EXP, "AN_EXP": AN_EXP, "PFAFFIAN": PFAFFIAN, "BOUNDED": BOUNDED,
        "UNKNOWN": UNKNOWN,
    }.items()
    for name, fun, point, here, everywhere, reason in programs
]  # fmt: skip
