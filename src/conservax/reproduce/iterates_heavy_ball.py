"""Gradient descent against the heavy ball on a function that is C^{1,1} and not C².

    f(x) = x²/2 for x ≥ 0, x²/8 for x < 0;    x⁺ = x − ∇f(x) + β (x − x₋),  β = 3/4

Derivatives of gradient descent contract whatever the selection. Those of the heavy ball obey
M_c = [[1 + β − c, −β], [1, 0]] with c ∈ [1/4, 1], and M_1 M_1 M_¼ M_¼ has the eigenvalue −9/8.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx

from . import style
from .claim import Experiment, Outcome, Ticker, agrees, at_least, at_most, counts, has_verdict, ours

SOURCE = "Bolte, Pauwels, Vaiter 2022, Section 4.3"
BETA = 0.75
PROVEN, REFUTED = cx.Verdict.PROVEN, cx.Verdict.REFUTED


def f(x: jax.Array, theta: jax.Array) -> jax.Array:
    """x²/2 or x²/8; θ enters through the initial point alone."""
    return jnp.where(x > 0, x**2 / 2, x**2 / 8) - 0.0 * theta


def controlled(beta: float, word: tuple[int, ...], steps: int) -> np.ndarray:
    """‖∂(x_t, x_{t−1})/∂x_0‖/√2 at the fixed point, the selection of f's kink following a word without end."""
    slopes = [float(jax.jacobian(cx.select(jax.grad(f), q))(0.0, 0.0)) for q in ("lower", "upper")]
    state, lengths = np.ones(2), [1.0]
    for t in range(steps):
        c = slopes[word[t % len(word)]]
        state = np.array([(1 + beta - c) * state[0] - beta * state[1], state[0]])
        lengths.append(float(np.linalg.norm(state)) / np.sqrt(2))
    return np.array(lengths)


def run(quick: bool, tick: Ticker) -> Outcome:
    """Both verdicts, the word that `check` finds, derivatives along it and from random starts."""
    steps, starts = 160, 50 if quick else 400
    ball, descent = cx.iterates.heavy_ball(f, 1.0, BETA), cx.iterates.gradient_descent(f, 1.0)
    of_ball, of_descent = (cx.iterates.check(a, 0.0, 0.0) for a in (ball, descent))
    tick(0.4)
    matrices, word = of_ball.contraction.matrices, of_ball.contraction.word
    product = np.eye(2)
    for letter in word:
        product = matrices[letter] @ product
    curvature = [1 + BETA - M[0, 0] for M in matrices]
    letters = tuple(int(curvature[i] > 0.5) for i in word)  # 1 where the curvature is 1

    rng = np.random.default_rng(0)
    begin = jnp.asarray(rng.normal(size=starts))
    run_from = jax.jit(
        jax.vmap(lambda x0: cx.iterates.piggyback(ball, 200, 1.0)(x0, jnp.zeros(())))
    )
    ends, slopes = map(np.asarray, run_from(begin))
    tick(0.8)
    grown, calm = controlled(BETA, letters, steps), controlled(0.0, letters, steps)

    claims = [
        has_verdict("heavy ball: implicit derivative", SOURCE, PROVEN, of_ball.implicit.verdict),
        has_verdict("heavy ball: contraction of the iteration", SOURCE, REFUTED, of_ball.contraction.verdict),
        has_verdict("gradient descent: implicit derivative", SOURCE, PROVEN, of_descent.implicit.verdict),
        has_verdict("gradient descent: contraction of the iteration", SOURCE, PROVEN,
                    of_descent.contraction.verdict),
        agrees("length of the word that check found", SOURCE, 4, len(word)),
        agrees("eigenvalues along it", SOURCE, [-9 / 8, -9 / 32], np.sort(np.linalg.eigvals(product).real)),
        at_most("gradient descent: rate of contraction", ours(SOURCE), 0.75 + 1e-9, of_descent.rate),
        at_least(f"heavy ball: derivative after {steps} steps along the word", ours(SOURCE), 20.0,
                 grown[-4:].max()),
        at_most(f"gradient descent: derivative after {steps} steps along the word", ours(SOURCE), 1e-6,
                calm[-1]),
        counts("heavy ball from random starts: iterate and derivative go to 0", ours(SOURCE), starts,
               int(np.sum((np.abs(ends) < 1e-6) & (np.abs(slopes) < 1e-4))), "starts"),
    ]  # fmt: skip
    return Outcome(_draw(grown, calm, matrices, letters), claims)


def _draw(
    grown: np.ndarray, calm: np.ndarray, matrices: np.ndarray, letters: tuple[int, ...]
) -> style.Figure:
    fig = style.figure(10.0, 4.3)
    left, right = fig.subplots(1, 2)
    grid = np.linspace(-2, 2, 201)
    left.plot(grid, np.where(grid > 0, grid**2 / 2, grid**2 / 8), color=style.TRUTH, label="$f$")
    left.plot(grid, np.where(grid > 0, grid, grid / 4), color=style.AD, label="$f'$")
    style.segment(left, 0.0, 0.25, 1.0, "set of $f''(0)$")
    left.set(xlabel="$x$", title="$C^{1,1}$, not $C^2$")
    left.legend(loc="upper left")
    right.semilogy(grown, color=style.BAD, label="heavy ball")
    right.semilogy(np.maximum(calm, 1e-12), color=style.GOOD, label="gradient descent")
    said = ", ".join("1" if letter else "¼" for letter in letters)
    right.set(xlabel="iterations", ylabel="‖derivative‖", ylim=(1e-4, 1e3),
              title=f"Derivatives, curvatures {said} in turn")  # fmt: skip
    right.legend(loc="lower left")
    return fig


EXPERIMENT = Experiment(
    name="iterates-heavy-ball",
    title="The heavy ball converges; its derivative need not",
    source=SOURCE,
    description=(
        "At the minimum of a function whose gradient is Lipschitz and has a kink, started there with a "
        "derivative that is not zero, and with the second derivative chosen from its set [1/4, 1] at each "
        "step. Every choice makes the derivatives of "
        "gradient descent fall. Along the word of length four that the joint spectral radius search finds, "
        "those of the heavy ball grow, although the implicit derivative is defined for every choice. From "
        "random starts all derivatives fall: the failure needs a start at the kink."
    ),
    run=run,
)
