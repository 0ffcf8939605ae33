"""``Equilibrium`` of any cell, against dense solves, closed forms and differences."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax.equilibrium import Equilibrium, Phantom, SpectralCell
from conservax.errors import InvalidInputError
from conservax.solution import Status

IN, SIZE, BATCH = 3, 6, 4


def setup(activation="relu"):
    cell = SpectralCell(IN, SIZE, activation, 0.9, key=jax.random.key(0), dtype=jnp.float64)
    x = jax.random.normal(jax.random.key(1), (BATCH, IN))
    return cell, x, jax.random.normal(jax.random.key(2), (BATCH, SIZE))


@pytest.mark.parametrize("solver", ["fixed_point", "anderson", "broyden"])
def test_each_solver_finds_the_equilibrium_and_its_gradient(solver):
    cell, x, cotangent = setup()
    deq = Equilibrium(cell, (SIZE,), solver)

    @jax.jit
    def run(x):
        def loss(x):
            solution = jax.vmap(deq.solve)(x)
            return jnp.sum(solution.value * cotangent), solution

        return jax.value_and_grad(loss, has_aux=True)(x)

    (_, solution), of_x = run(x)
    W, U, b, z = (np.asarray(a) for a in (cell.W, cell.U, cell.b, solution.value))
    assert np.linalg.norm(W, 2) <= 0.9 + 1e-12
    assert np.all(solution.status == Status.SOLVED)
    before = z @ W.T + np.asarray(x) @ U.T + b
    np.testing.assert_allclose(z, np.maximum(before, 0), atol=1e-11)
    for i in range(BATCH):
        J = np.diag((before[i] > 0) * 1.0)
        t = J @ np.linalg.solve(np.eye(SIZE) - W.T @ J, np.asarray(cotangent[i]))
        np.testing.assert_allclose(of_x[i], U.T @ t, atol=1e-10)


def test_parameters_and_extra_arguments_are_differentiated():
    """z = tanh(a z/2 + x s): da and ds meet central differences."""

    class Cell(eqx.Module):
        a: jax.Array

        def __call__(self, z, x, s):
            return jnp.tanh(self.a * z / 2 + x * s)

    x = jnp.array([0.3, -1.0])

    def value(a, s):
        return jnp.sum(jnp.cos(Equilibrium(Cell(a))(x, s)))

    a, s, h = 0.7, 1.2, 1e-5
    found = jax.jit(jax.grad(value, (0, 1)))(a, s)
    f = jax.jit(value)
    expected = (f(a + h, s) - f(a - h, s)) / (2 * h), (f(a, s + h) - f(a, s - h)) / (2 * h)
    np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_other_backward_passes():
    """z = z/2 + x has dz/dx = 2; one step gives 1, k steps 2(1 − 2⁻ᵏ), damped ones in between."""

    def slope(backward, **options):
        deq = Equilibrium(lambda z, x: z / 2 + x, backward=backward, **options)
        return float(jax.jit(jax.grad(deq))(1.0))

    found = [slope("implicit"), slope("one_step"), slope(Phantom(3, 1.0)),
             slope("unrolled", solver="fixed_point", max_steps=60)]  # fmt: skip
    np.testing.assert_allclose(found, [2, 1, 2 * (1 - 0.5**3), 2], rtol=1e-9)


def test_certificate_and_check():
    cell, x, _ = setup("tanh")
    deq = Equilibrium(cell, (SIZE,))
    assert deq.certificate.verdict == cx.Verdict.PROVEN
    np.testing.assert_allclose(deq.certificate.margin, 0.1, rtol=1e-6)
    assert deq.check(x[0]).verdict == cx.Verdict.PROVEN
    unknown = Equilibrium(lambda z, x: -jnp.abs(z) + x)
    assert unknown.certificate.verdict == cx.Verdict.UNKNOWN
    # z = −|z| at 0: slopes 1 ± 1 of z + |z|, and 0 is among them
    assert unknown.check(jnp.zeros(())).verdict == cx.Verdict.REFUTED


def test_the_penalty_estimates_the_norm_of_the_jacobian():
    cell, x, _ = setup("tanh")
    deq = Equilibrium(cell, (SIZE,))
    z = deq(x[0])
    exact = float(jnp.sum(jax.jacobian(lambda z: cell(z, x[0]))(z) ** 2)) / SIZE
    keys = jax.random.split(jax.random.key(5), 20000)
    penalties = jax.jit(jax.vmap(lambda k: deq.jacobian_penalty(z, x[0], key=k)))(keys)
    # 20,000 draws: the mean is within four standard errors
    assert abs(np.mean(penalties) - exact) < 4 * np.std(penalties) / np.sqrt(len(keys))


@pytest.mark.parametrize("solver", ["fixed_point", "anderson", "broyden"])
def test_tiny_numbers_are_no_solution_by_themselves(solver):
    """z = z/2 + x is 2x also where x² is no float32."""
    x = jnp.array([1e-25, -3e-24], jnp.float32)
    solution = Equilibrium(lambda z, x: z / 2 + x, solver=solver).solve(x)
    assert solution.status == Status.SOLVED
    np.testing.assert_allclose(solution.value, 2 * x, rtol=1e-5)


def test_divergence_is_a_status_and_no_number():
    deq = Equilibrium(lambda z, x: 3 * z + x * z**2 + 1, solver="fixed_point", max_steps=2000)
    solution = deq.solve(jnp.ones(2))
    assert solution.status == Status.DIVERGED
    assert np.all(np.isnan(solution.value))
    slow = Equilibrium(lambda z, x: 0.99 * z + x, solver="fixed_point", max_steps=5)
    assert slow.solve(jnp.ones(2)).status == Status.MAX_ITERATIONS


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Equilibrium(lambda z, x: z[:1])(jnp.ones(2)), r"into \(1,\)"),
        (lambda: Equilibrium(lambda z, x: (z, z))(jnp.ones(2)), "tuple"),
        (lambda: Equilibrium(lambda z, x: z.astype(jnp.float32))(jnp.ones(2)), "float32"),
        (lambda: Equilibrium(lambda z, x: z / 2)(jnp.array([jnp.nan])), "NaN"),
        (lambda: Equilibrium(lambda z, x: z / 2)(jnp.ones(2), init=jnp.ones(3)), "init has shape"),
        (lambda: Equilibrium(lambda z, x: z, solver="newton"), "solver='newton'"),
        (lambda: Equilibrium(3), "callable"),
        (lambda: SpectralCell(2, 3, bound=1.0, key=jax.random.key(0)), "bound=1.0"),
    ],
)
def test_what_is_refused(build, message):
    with pytest.raises(InvalidInputError, match=message):
        build()
