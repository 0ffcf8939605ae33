"""``custom_root`` and its relatives against closed forms, other solvers, mpmath and jaxopt."""

import functools

import jax
import jax.numpy as jnp
import lineax as lx
import mpmath
import numpy as np
import pytest
import scipy.optimize

import conservax as cx
from conservax import errors
from helpers import central_difference, on_numpy, soft_threshold

X = np.random.default_rng(0).normal(size=(8, 3))
Y = np.random.default_rng(1).normal(size=8)


# Ridge regression: w(θ) = (XᵀX + θI)⁻¹ Xᵀy, in closed form


def ridge_equation(w, theta, data=(X, Y)):
    features, targets = data
    return features.T @ (features @ w - targets) + theta * w


@cx.custom_root(ridge_equation)
def ridge(init, theta, data=(X, Y)):
    features, targets = data
    return jnp.linalg.solve(
        features.T @ features + theta * jnp.eye(features.shape[1]), features.T @ targets
    )


def ridge_derivatives(theta):
    """w and its first two derivatives: w′ = −M⁻¹w, w″ = 2M⁻²w."""
    M = X.T @ X + theta * np.eye(3)
    w = np.linalg.solve(M, X.T @ Y)
    first = -np.linalg.solve(M, w)
    return w, first, -2 * np.linalg.solve(M, first)


@pytest.mark.parametrize("transform", [jax.jacfwd, jax.jacrev])
def test_ridge_jacobian_in_both_modes(transform):
    # outside jit, see the solver of SciPy's below
    derivative = on_numpy(transform(functools.partial(ridge, None)))
    for theta in (0.3, 2.0):
        np.testing.assert_allclose(derivative(theta), ridge_derivatives(theta)[1], rtol=1e-9)


@pytest.mark.parametrize(
    "hessian",
    [
        jax.hessian,
        lambda f: jax.jacfwd(jax.jacfwd(f)),
        lambda f: jax.jacrev(jax.jacrev(f)),
        lambda f: jax.jacrev(jax.jacfwd(f)),
    ],
)
def test_ridge_hessian_in_every_mode(hessian):
    second = hessian(functools.partial(ridge, None))
    np.testing.assert_allclose(on_numpy(second)(0.7), ridge_derivatives(0.7)[2], rtol=1e-9)


def test_ridge_gradient_in_data_against_finite_differences():
    loss = lambda features: jnp.sum(jnp.sin(ridge(None, 0.5, (features, Y))))  # noqa: E731
    gradient = on_numpy(jax.grad(loss))(X)
    expected = central_difference(on_numpy(loss), X).reshape(X.shape)
    np.testing.assert_allclose(gradient, expected, atol=1e-8)


def test_jit_of_vmap():
    thetas = jnp.array([0.1, 1.0, 5.0])
    values, slopes = on_numpy(
        jax.vmap(lambda t: jax.jvp(functools.partial(ridge, None), (t,), (1.0,)))
    )(thetas)
    for theta, value, slope in zip(thetas, values, slopes, strict=True):
        np.testing.assert_allclose(value, ridge_derivatives(theta)[0], rtol=1e-12)
        np.testing.assert_allclose(slope, ridge_derivatives(theta)[1], rtol=1e-9)
    summed = jax.jit(jax.grad(lambda t: jnp.sum(jax.vmap(functools.partial(ridge, None))(t))))(
        thetas
    )
    np.testing.assert_allclose(summed, slopes.sum(axis=1), rtol=1e-9)


def test_float32():
    data = np.float32(X), np.float32(Y)
    slope = on_numpy(jax.jacrev(lambda t: ridge(None, t, data)))(np.float32(0.7))
    assert slope.dtype == np.float32
    np.testing.assert_allclose(slope, ridge_derivatives(0.7)[1], rtol=1e-4)


# A smooth nonlinear root: y³ + y = t, its derivatives from mpmath


def cubic_equation(y, t):
    return y**3 + y - t


@cx.custom_root(cubic_equation)
def cubic(init, t):
    return jax.lax.fori_loop(0, 40, lambda i, y: y - (y**3 + y - t) / (3 * y**2 + 1), init)


@functools.cache
def cubic_derivatives():
    """The first three, forward over reverse and reverse over that, in one compilation."""
    first = jax.grad(functools.partial(cubic, 0.1))
    second = jax.jacfwd(first)
    return on_numpy(lambda t: jnp.stack([first(t), second(t), jax.grad(second)(t)]))


@pytest.mark.parametrize("t", [-3.0, 0.0, 0.5, 10.0])
def test_a_nonlinear_root_and_three_derivatives(t):
    with mpmath.workdps(40):
        root = lambda s: mpmath.findroot(lambda y: y**3 + y - s, mpmath.mpf(float(t) / 2))  # noqa: E731
        expected = [float(mpmath.diff(root, t, n)) for n in range(4)]
    fun = functools.partial(cubic, 0.1)
    assert np.isclose(fun(t), expected[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(jax.grad(fun)(t), expected[1], atol=1e-9)
    np.testing.assert_allclose(cubic_derivatives()(t), expected[1:], atol=1e-9)
    if t == 0.5:  # once outside jit, where each operation is compiled by itself
        np.testing.assert_allclose(jax.jacfwd(jax.grad(fun))(t), expected[2], atol=1e-9)


# Closures


def test_a_solver_and_equation_that_close_over_theta():
    def solution(theta):
        @cx.custom_root(lambda w: ridge_equation(w, theta))
        def solve(init):
            return jnp.linalg.solve(X.T @ X + theta * jnp.eye(3), X.T @ Y)

        return solve(jnp.zeros(3))

    _, first, second = ridge_derivatives(0.7)
    np.testing.assert_allclose(jax.jacrev(jax.jit(solution))(0.7), first, rtol=1e-9)
    for transform in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(on_numpy(transform(solution))(0.7), first, rtol=1e-9)
    np.testing.assert_allclose(on_numpy(jax.hessian(solution))(0.7), second, rtol=1e-9)
    batched = jax.jit(jax.vmap(jax.jacrev(solution)))(jnp.array([0.7, 2.0]))
    np.testing.assert_allclose(batched[1], ridge_derivatives(2.0)[1], rtol=1e-9)


def test_closed_over_and_passed_parameters_together():
    def solution(a, b):
        solve = cx.custom_root(lambda y, c: a * y - b * c)(lambda init, c: b * c / a)
        return solve(0.0, 3.0 * b)  # y = 3b²/a

    gradient = jax.grad(solution, (0, 1))
    for transformed in (gradient, jax.jit(gradient)):
        slopes = transformed(2.0, 5.0)
        np.testing.assert_allclose(slopes, (-3 * 25 / 4, 6 * 5 / 2), rtol=1e-12)


# Pytrees, keywords, auxiliary outputs


def tree_equation(sol, params, *, gain=1.0):
    return {
        "u": sol["u"] - gain * params["a"] * jnp.ones(2),
        "v": (sol["v"][0] ** 2 - params["b"],),
    }


@cx.custom_root(tree_equation, has_aux=True)
def tree_solver(init, params, *, gain=1.0):
    sol = {"u": gain * params["a"] * jnp.ones(2), "v": (jnp.sqrt(params["b"]),)}
    return sol, {"steps": jnp.int32(7), "trace": params["b"] * 2, "label": jnp.array([True])}


def test_pytrees_of_solutions_parameters_and_aux():
    params = {"a": 3.0, "b": 4.0}
    derivative = jax.jacrev(lambda p: tree_solver(None, p, gain=2.0), has_aux=True)
    jacobian, aux = on_numpy(derivative)(params)
    np.testing.assert_allclose(jacobian["u"]["a"], [2.0, 2.0])
    np.testing.assert_allclose(jacobian["u"]["b"], [0.0, 0.0])
    np.testing.assert_allclose(jacobian["v"][0]["a"], 0.0)
    np.testing.assert_allclose(jacobian["v"][0]["b"], 0.25)
    assert aux["steps"] == 7
    assert aux["trace"] == 8.0
    assert jax.grad(lambda g: jnp.sum(tree_solver(None, params, gain=g)[0]["u"]))(2.0) == 6.0


def test_aux_has_no_derivative():
    derivative = jax.jacfwd(lambda b: tree_solver(None, {"a": 1.0, "b": b})[1]["trace"])
    assert derivative(4.0) == 0.0


def test_keywords_in_any_order_and_by_position():
    @cx.custom_root(lambda y, a, b, c=1.0: a * y - b * c)
    def solve(init, a, b, c=1.0):
        return b * c / a

    calls = [
        lambda b: solve(0.0, 2.0, b, 5.0),
        lambda b: solve(0.0, b=b, a=2.0, c=5.0),
        lambda b: solve(c=5.0, b=b, a=2.0, init=0.0),
        lambda b: solve(0.0, 2.0, c=5.0, b=b),
    ]
    for call in calls:
        assert call(3.0) == 7.5
        assert jax.grad(call)(3.0) == 2.5
        assert jax.jit(jax.grad(call))(3.0) == 2.5
    assert jax.grad(lambda b: solve(0.0, 2.0, b))(3.0) == 0.5
    assert jax.grad(lambda c: solve(0.0, 2.0, 3.0, c=c))(5.0) == 1.5


def test_strings_none_and_integers_pass_through():
    @cx.custom_root(lambda y, t, n, mode: y - t**n if mode == "power" else y - n * t)
    def solve(init, t, n, mode):
        return t**n if mode == "power" else n * t

    assert jax.grad(lambda t: solve(None, t, 3, "power"))(2.0) == 12.0
    assert jax.grad(lambda t: solve(None, t, 3, mode="product"))(2.0) == 3.0


def test_the_initial_point_has_derivative_zero():
    assert jax.grad(lambda init: cubic(init, 2.0))(0.5) == 0.0
    assert jax.jvp(lambda init: cubic(init, 2.0), (0.5,), (1.0,))[1] == 0.0


def test_the_solver_itself_is_never_differentiated():
    def while_loop(init, t):
        step = lambda y: y - (y**3 + y - t) / (3 * y**2 + 1)  # noqa: E731
        return jax.lax.while_loop(lambda y: jnp.abs(y**3 + y - t) > 1e-12, step, init)

    derivative = jax.grad(lambda t: cx.custom_root(cubic_equation)(while_loop)(0.3, t))
    np.testing.assert_allclose(derivative(2.0), 1 / 4, rtol=1e-9)  # y = 1 at t = 2


# Solvers on the host


def test_a_scipy_solver_under_an_eager_gradient():
    @cx.custom_root(ridge_equation)
    def solve(init, theta):
        matrix = X.T @ X + float(theta) * np.eye(3)
        return jnp.asarray(scipy.optimize.root(lambda w: matrix @ w - X.T @ Y, np.asarray(init)).x)

    for transform in (jax.jacrev, jax.jacfwd):
        slope = transform(lambda t: solve(np.zeros(3), t))(0.7)
        np.testing.assert_allclose(slope, ridge_derivatives(0.7)[1], rtol=1e-7)


def test_a_numpy_solver_may_return_numpy_arrays():
    @cx.custom_root(lambda y, t: y**2 - t)
    def solve(init, t):
        return np.sqrt(np.asarray(t))

    np.testing.assert_allclose(
        jax.grad(lambda t: jnp.sum(solve(None, t)))(jnp.array([4.0, 9.0])), [1 / 4, 1 / 6]
    )


# The linear solve


def spd_problem(n):
    rng = np.random.default_rng(n)
    half = rng.normal(size=(n, n)) / np.sqrt(n)
    return half @ half.T + np.eye(n), rng.normal(size=n)


def jaxopt_style(matvec, b):
    """An unpreconditioned conjugate gradient, as a jaxopt user would pass it."""
    return jax.scipy.sparse.linalg.cg(matvec, b, tol=1e-12)[0]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="default"),
        pytest.param({"structure": "symmetric"}, id="symmetric"),
        pytest.param({"structure": "positive_definite"}, id="positive definite"),
        pytest.param({"solve": jaxopt_style}, id="jaxopt style"),
        pytest.param({"solve": lx.LU()}, id="lineax LU"),
        pytest.param(
            {"solve": lx.CG(rtol=1e-12, atol=1e-12), "structure": "positive_definite"},
            id="lineax CG",
        ),
        pytest.param({"solve": lx.GMRES(rtol=1e-12, atol=1e-12)}, id="lineax GMRES"),
        pytest.param({"singular": "least_norm"}, id="least norm"),
    ],
)
def test_every_way_to_solve_gives_the_same_derivative(options):
    A, b = spd_problem(6)
    equation = lambda y, t: A @ y + t * y - b * t**2  # noqa: E731
    solver = lambda init, t: jnp.linalg.solve(A + t * jnp.eye(6), b * t**2)  # noqa: E731
    fun = functools.partial(cx.custom_root(equation, **options)(solver), None)
    y = np.linalg.solve(A + 0.5 * np.eye(6), b * 0.25)
    expected = np.linalg.solve(A + 0.5 * np.eye(6), 2 * b * 0.5 - y)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(fun))(0.5), expected, rtol=1e-9)
    np.testing.assert_allclose(jax.jit(jax.jacrev(fun))(0.5), expected, rtol=1e-9)


@pytest.mark.parametrize("structure", ["general", "symmetric", "positive_definite"])
def test_three_hundred_unknowns_without_a_matrix_equal_the_dense_solve(structure):
    A, b = spd_problem(300)
    if structure == "general":
        A = A + 0.1 * np.triu(np.ones((300, 300)), 1) / 300
    fun = cx.custom_root(lambda y, t: A @ y - t * b, structure=structure)(
        lambda init, t: jnp.linalg.solve(A, t * b)
    )
    expected = np.linalg.solve(A, b)
    forward = on_numpy(jax.jacfwd(lambda t: fun(None, t)))
    np.testing.assert_allclose(forward(2.0), expected, atol=1e-9)
    cotangent = np.random.default_rng(0).normal(size=300)
    gradient = on_numpy(jax.grad(lambda t: cotangent @ fun(None, t)))
    np.testing.assert_allclose(gradient(2.0), cotangent @ expected, rtol=1e-9)


# Singular systems


def singular_equation(y, t):
    # rows 0 and 1 say the same: B = [[1, 1], [1, 1]]
    return jnp.stack([y[0] + y[1] - t, y[0] + y[1] - t])


def halves(init, t):
    return jnp.stack([t / 2, t / 2])


def test_a_singular_system_is_an_error_in_an_eager_forward_pass():
    solve = cx.custom_root(singular_equation)(halves)
    with pytest.raises(errors.SingularError, match="least_norm"):
        jax.jvp(lambda t: solve(None, t), (1.0,), (1.0,))


def test_a_singular_system_is_nan_under_jit_and_an_error_outside():
    solve = cx.custom_root(singular_equation)(halves)
    fun = lambda t: jnp.sum(solve(None, t))  # noqa: E731
    assert np.isnan(jax.jit(jax.grad(fun))(1.0))
    assert np.all(np.isnan(jax.jit(jax.jacfwd(lambda t: solve(None, t)))(1.0)))
    with pytest.raises(errors.SingularError, match="least_norm"):
        jax.grad(fun)(1.0)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_least_norm_is_the_pseudo_inverse(rank):
    rng = np.random.default_rng(rank)
    B = rng.normal(size=(4, rank)) @ rng.normal(size=(rank, 4))
    c = B @ rng.normal(size=4)
    solve = cx.custom_root(lambda y, t: B @ y - t * c, singular="least_norm")(
        lambda init, t: t * jnp.asarray(np.linalg.pinv(B) @ c)
    )
    expected = np.linalg.pinv(B, rcond=1e-12) @ c
    for transform in (jax.jacfwd, jax.jacrev):
        derivative = transform(lambda t: solve(None, t))
        np.testing.assert_allclose(on_numpy(derivative)(1.0), expected, atol=1e-9)


def test_in_a_batch_one_singular_item_leaves_the_rest_unharmed():
    # B = diag(s, 1): singular at s = 0
    solve = cx.custom_root(lambda y, s, t: jnp.stack([s * y[0] - s * t, y[1] - 3 * t]))(
        lambda init, s, t: jnp.stack([t, 3 * t])
    )
    s, t = jnp.array([1.0, 0.0, 2.0]), jnp.ones(3)
    outside = jax.vmap(lambda s, t: jax.jacfwd(lambda u: solve(None, s, u))(t))(s, t)
    reverse = on_numpy(jax.vmap(lambda s, t: jax.jacrev(lambda u: solve(None, s, u))(t)))(s, t)
    for result in (np.asarray(outside), reverse):
        np.testing.assert_allclose(result[[0, 2]], [[1, 3], [1, 3]], rtol=1e-12)
        assert np.isnan(result[1, 0])


# Bad input


def test_a_point_that_is_no_root_is_refused_with_its_residual():
    solve = cx.custom_root(lambda y, t: y - t)(lambda init, t: t + 0.5)
    with pytest.raises(errors.NotARootError, match=r"0\.5"):
        jax.jvp(lambda t: solve(None, t), (1.0,), (1.0,))


def test_an_equation_with_too_few_rows_is_refused_with_both_sizes():
    solve = cx.custom_root(lambda y, t: jnp.sum(y) - t)(lambda init, t: jnp.ones(3) * t / 3)
    with pytest.raises(errors.InvalidInputError, match=r"1 .*3"):
        solve(None, 1.0)


def test_a_solver_that_returns_integers_is_refused():
    solve = cx.custom_root(lambda y, t: y - t)(lambda init, t: jnp.int32(3))
    with pytest.raises(errors.InvalidInputError, match="floating"):
        solve(None, 3.0)


def test_an_unknown_selection_is_refused_when_decorating():
    with pytest.raises(errors.SelectionError, match="'left'"):
        cx.custom_root(lambda y, t: y - t, selection="left")


def test_a_solver_without_an_initial_point_is_refused():
    solve = cx.custom_root(lambda y: y)(lambda *args: jnp.zeros(1))
    with pytest.raises(errors.InvalidInputError, match="init"):
        solve()


# Selections at a kink: y = max(0, y/2 − a) at a = 0 has the derivatives {0, −2}


def hinge_equation(y, a):
    return y - jax.nn.relu(y / 2 - a)


def hinge_solver(init, a):
    return jnp.maximum(0.0, -2 * a)


@pytest.mark.parametrize(("selection", "expected"), [("lower", 0.0), ("upper", -2.0), ("jax", 0.0)])
def test_the_selection_decides_the_derivative_at_a_kink(selection, expected):
    fun = functools.partial(cx.custom_root(hinge_equation, selection=selection)(hinge_solver), None)
    compiled = jax.jit(jax.grad(fun))
    assert jax.grad(fun)(0.0) == expected
    assert compiled(0.0) == expected
    assert jax.jit(jax.jacfwd(fun))(0.0) == expected
    # away from the kink there is nothing to select
    assert compiled(1.0) == 0.0
    assert compiled(-1.0) == -2.0


def test_the_midpoint_of_jax_is_an_element_too():
    equation = lambda y, a: y - jnp.maximum(0.0, y / 2 - a)  # noqa: E731
    fun = functools.partial(cx.custom_root(equation)(hinge_solver), None)
    np.testing.assert_allclose(jax.grad(fun)(0.0), -2 / 3, rtol=1e-12)


# Fixed points


def test_lasso_in_one_dimension_in_closed_form():
    # min ½(y − c)² + λ|y|: y = soft(c, λ), through the proximal gradient map with step ½
    @cx.custom_fixed_point(lambda y, c, lam: soft_threshold(y - 0.5 * (y - c), 0.5 * lam))
    def lasso(init, c, lam):
        return soft_threshold(c, lam)

    gradient, hessian = on_numpy(jax.grad(lasso, (1, 2))), on_numpy(jax.hessian(lasso, 1))
    for c, lam, dc, dlam in ((3.0, 1.0, 1.0, -1.0), (-3.0, 1.0, 1.0, 1.0), (0.5, 1.0, 0.0, 0.0)):
        np.testing.assert_allclose(gradient(0.0, c, lam), (dc, dlam), atol=1e-12)
        np.testing.assert_allclose(hessian(0.0, c, lam), 0.0, atol=1e-12)


def test_at_its_kink_the_lasso_selects_either_one_sided_derivative():
    # y = 0 and c = λ: inside the threshold nothing moves, outside y moves with c − λ
    slopes = []
    for selection in ("lower", "upper"):
        lasso = cx.custom_fixed_point(
            lambda y, c, lam: soft_threshold(y - 0.5 * (y - c), 0.5 * lam), selection=selection
        )(lambda init, c, lam: soft_threshold(c, lam))
        slopes.append(on_numpy(jax.grad(lasso, (1, 2)))(0.0, 1.0, 1.0))
    np.testing.assert_allclose(sorted(np.array(slopes).tolist()), [[0, 0], [1, -1]], atol=1e-12)


def test_a_contraction_against_its_closed_form():
    W = 0.3 * np.random.default_rng(5).normal(size=(3, 3))

    @cx.custom_fixed_point(lambda z, x: jnp.tanh(W @ z + x))
    def equilibrium(init, x):
        return jax.lax.fori_loop(0, 200, lambda i, z: jnp.tanh(W @ z + x), init)

    x = np.array([0.1, -0.4, 0.3])
    from_zero = lambda x: equilibrium(jnp.zeros(3), x)  # noqa: E731
    value = on_numpy(from_zero)
    z = value(x)
    D = np.diag(1 - z**2)
    expected = np.linalg.solve(np.eye(3) - D @ W, D)
    np.testing.assert_allclose(on_numpy(jax.jacrev(from_zero))(x), expected, atol=1e-9)
    np.testing.assert_allclose(expected, central_difference(value, x), atol=1e-8)


def test_a_fixed_point_of_a_pytree():
    @cx.custom_fixed_point(lambda y, t: {"a": 0.5 * y["a"] + t, "b": 0.25 * y["b"] + y["a"]})
    def solve(init, t):
        return {"a": 2 * t, "b": 8 * t / 3}

    slopes = on_numpy(jax.jacrev(lambda t: solve(None, t)))(1.5)
    np.testing.assert_allclose([slopes["a"], slopes["b"]], [2, 8 / 3], rtol=1e-12)


# root_jvp and root_vjp


def smooth_system(y, A, t):
    return A @ y + 0.1 * y**3 - t


@pytest.fixture
def solved():
    A, t = spd_problem(4)
    y = scipy.optimize.root(lambda y: A @ y + 0.1 * y**3 - t, np.zeros(4), tol=1e-14).x
    return jnp.asarray(y), jnp.asarray(A), jnp.asarray(t)


def test_root_jvp_and_vjp_equal_closed_forms(solved):
    y, A, t = solved
    rng = np.random.default_rng(1)
    dA, dt, u = rng.normal(size=(4, 4)), rng.normal(size=4), rng.normal(size=4)
    B = A + np.diag(0.3 * y**2)
    tangent = cx.root_jvp(smooth_system, y, (A, t), (dA, dt))
    np.testing.assert_allclose(tangent, np.linalg.solve(B, dt - dA @ y), rtol=1e-9)
    back = np.linalg.solve(B.T, u)
    A_bar, t_bar = cx.root_vjp(smooth_system, y, (A, t), u)
    np.testing.assert_allclose(t_bar, back, rtol=1e-9)
    np.testing.assert_allclose(A_bar, -np.outer(back, y), rtol=1e-9)
    np.testing.assert_allclose(u @ tangent, np.sum(A_bar * dA) + t_bar @ dt, rtol=1e-9)


def test_root_jvp_and_vjp_equal_those_of_jaxopt(solved):
    import jaxopt.implicit_diff as peer

    y, A, t = solved
    rng = np.random.default_rng(2)
    dA, dt, u = (rng.normal(size=s) for s in ((4, 4), 4, 4))
    solve = lambda matvec, b: jnp.linalg.solve(jax.jacobian(matvec)(b), b)  # noqa: E731
    np.testing.assert_allclose(
        on_numpy(lambda *d: cx.root_jvp(smooth_system, y, (A, t), d))(dA, dt),
        on_numpy(lambda *d: peer.root_jvp(smooth_system, y, (A, t), d, solve=solve))(dA, dt),
        rtol=1e-9,
    )
    ours = on_numpy(lambda u: cx.root_vjp(smooth_system, y, (A, t), u))(u)
    theirs = on_numpy(lambda u: peer.root_vjp(smooth_system, y, (A, t), u, solve=solve))(u)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_root_jvp_and_vjp_work_under_jit_and_vmap(solved):
    y, A, t = solved
    dt = np.eye(4)
    columns = on_numpy(
        jax.vmap(lambda d: cx.root_jvp(smooth_system, y, (A, t), (jnp.zeros((4, 4)), d)))
    )(dt)
    rows = jax.jit(jax.vmap(lambda u: cx.root_vjp(smooth_system, y, (A, t), u)[1]))(dt)
    inverse = np.linalg.inv(A + np.diag(0.3 * y**2))
    np.testing.assert_allclose(columns.T, inverse, rtol=1e-8)
    np.testing.assert_allclose(rows, inverse, rtol=1e-8)


@pytest.mark.parametrize(("selection", "expected"), [("lower", 0.0), ("upper", -2.0)])
def test_root_jvp_and_vjp_take_a_selection(selection, expected):
    assert cx.root_jvp(hinge_equation, 0.0, (0.0,), (1.0,), selection=selection) == expected
    assert cx.root_vjp(hinge_equation, 0.0, (0.0,), 1.0, selection=selection)[0] == expected


def test_root_jvp_refuses_what_is_no_root():
    with pytest.raises(errors.NotARootError):
        cx.root_jvp(lambda y, t: y - t, 2.0, (1.0,), (1.0,))


def test_root_jvp_of_a_singular_system_raises():
    args = (singular_equation, jnp.array([0.5, 0.5]), (1.0,), (1.0,))
    with pytest.raises(errors.SingularError):
        cx.root_jvp(*args)
    np.testing.assert_allclose(cx.root_jvp(*args, singular="least_norm"), [0.5, 0.5], atol=1e-12)


# Composition and the attached check


def test_one_root_inside_another():
    inner = cx.custom_root(lambda u, t: u**2 - t)(lambda init, t: jnp.sqrt(t))
    # v + √v... v = t − u(v): v + √v = t, so that dv/dt = 1/(1 + 1/(2√v))
    outer = cx.custom_root(lambda v, t: v + inner(None, v) - t)(
        lambda init, t: ((jnp.sqrt(1 + 4 * t) - 1) / 2) ** 2
    )
    fun = functools.partial(outer, None)
    v = float(fun(6.0))
    assert v == 4.0
    np.testing.assert_allclose(jax.grad(fun)(6.0), 1 / (1 + 1 / (2 * np.sqrt(v))), rtol=1e-9)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(fun))(6.0), 0.8, rtol=1e-9)


def test_the_decorated_solver_checks_its_own_solution():
    solver = cx.custom_root(hinge_equation)(hinge_solver)
    report = solver.check(solver(None, 0.0), 0.0)
    assert report.verdict == cx.Verdict.PROVEN
    assert len(report.kinks) == 1


def test_values_are_the_solvers_own():
    np.testing.assert_allclose(ridge(None, 0.7), ridge_derivatives(0.7)[0], rtol=1e-12)
    assert ridge.__name__ == "ridge"
