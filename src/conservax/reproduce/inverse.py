"""Example 1 and Figure 4: inverting a piecewise linear map of the plane.

    Φ(x, y) = (|x| + y, 2x + |y|)

is one to one with four linear pieces, Jacobians [[±1, 1], [2, ±1]]. The Clarke Jacobian of Φ at 0
is the square of matrices [[a, 1], [2, b]], |a|, |b| ≤ 1, of affine dimension 2; that of Φ⁻¹ is the
tetrahedron spanned by the four inverses, of affine dimension 3. So inverting the elements of the
first does not give the second; taking convex hulls does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx

from . import style
from .claim import (
    Claim,
    Experiment,
    Outcome,
    Ticker,
    agrees,
    at_least,
    at_most,
    has_verdict,
    ours,
    same_points,
)

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

SOURCE = "Bolte et al. 2021, Example 1 and Figure 4"
SIGNS = ((1, 1), (-1, 1), (-1, -1), (1, -1))  # quadrants, counter-clockwise
PIECES = np.array([[[a, 1.0], [2.0, b]] for a, b in SIGNS])


def phi(u: jax.Array) -> jax.Array:
    """(|x| + y, 2x + |y|)."""
    x, y = u
    return jnp.stack([jnp.abs(x) + y, 2 * x + jnp.abs(y)])


def inverse_of(v: np.ndarray) -> np.ndarray:
    """Φ⁻¹(v), found by trying the four pieces."""
    for (a, b), piece in zip(SIGNS, PIECES, strict=True):
        u = np.linalg.solve(piece, v)
        if a * u[0] >= 0 and b * u[1] >= 0:
            return u
    raise ValueError(f"no piece of Φ reaches {v}")


def affine_dimension(matrices: np.ndarray) -> int:
    """Dimension of the smallest affine space through the matrices."""
    flat = matrices.reshape(len(matrices), -1)
    return int(np.linalg.matrix_rank(flat - flat[0], tol=1e-9))


def barycentric(matrices: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, float]:
    """Affine coordinates of `points` with respect to `matrices`, and the largest misfit."""
    system = np.vstack([matrices.reshape(len(matrices), -1).T, np.ones(len(matrices))])
    target = np.vstack([points.reshape(len(points), -1).T, np.ones(len(points))])
    weights = np.linalg.lstsq(system, target, rcond=None)[0]
    return weights, float(np.max(np.abs(system @ weights - target)))


def sampled_inverse_jacobians(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Distinct Jacobians of Φ⁻¹ near 0, by central differences of Φ⁻¹ itself."""
    h = 2.0**-40
    found = []
    for v in 2.0**-10 * rng.standard_normal((samples, 2)):
        columns = [(inverse_of(v + h * e) - inverse_of(v - h * e)) / (2 * h) for e in np.eye(2)]
        found.append(np.round(np.column_stack(columns), 4))
    return np.unique(np.array(found) + 0.0, axis=0)


def run(quick: bool, tick: Ticker) -> Outcome:
    """Compute both sets at 0 and test the two inclusions."""
    rng = np.random.default_rng(0)
    origin = jnp.zeros(2)
    direct = cx.conservative_jacobian(phi)(origin).vertices()
    inverse = cx.inverse_jacobian(phi)(origin).vertices()
    tick(0.4)
    seen = sampled_inverse_jacobians(60 if quick else 300, rng)
    tick(0.8)

    # inverses of elements of ∂Φ(0): are they in the hull of the four inverses?
    a, b = rng.uniform(-1, 1, (2, 2000))
    elements = np.stack([np.stack([a, np.ones_like(a)], -1), np.stack([2 + 0 * b, b], -1)], -2)
    weights, misfit = barycentric(inverse, np.linalg.inv(elements))
    # the centre of that hull: is it the inverse of an element of ∂Φ(0)?
    back = np.linalg.inv(inverse.mean(axis=0))
    nearest = np.array([[np.clip(back[0, 0], -1, 1), 1], [2, np.clip(back[1, 1], -1, 1)]])
    distance = float(np.linalg.norm(back - nearest))
    report = cx.check(phi, origin)

    claims = [
        same_points("Jacobians of the four pieces of Φ", SOURCE, PIECES, direct),
        same_points("their determinants", SOURCE, [-1.0, -3.0, -1.0, -3.0], np.linalg.det(direct)),
        same_points("vertices of the inverse's conservative Jacobian at 0 (Corollary 2)", SOURCE,
                    np.linalg.inv(PIECES), inverse),
        Claim("Φ⁻¹ itself, sampled near 0: distinct Jacobians, all among them", SOURCE, 4,
              len(seen), len(seen) == 4 and _all_among(seen, inverse)),
        agrees("affine dimension of the Clarke Jacobian of Φ", SOURCE, 2, affine_dimension(direct)),
        agrees("affine dimension of that of Φ⁻¹", SOURCE, 3, affine_dimension(inverse)),
        at_most("holds: inverses of ∂ᶜΦ(0) lie in ∂ᶜΦ⁻¹(0); violation", ours(SOURCE), 1e-9,
                max(misfit, -float(weights.min()))),
        at_least("fails: ∂ᶜΦ⁻¹(0) ⊂ inverses of ∂ᶜΦ(0); centre is off by", ours(SOURCE), 0.1,
                 distance),
        has_verdict("invertibility condition for Φ at 0", "Bolte et al. 2021, Corollary 2",
                    cx.Verdict.PROVEN, report.verdict),
    ]  # fmt: skip
    return Outcome(_draw(inverse), claims)


def _all_among(found: np.ndarray, vertices: np.ndarray) -> bool:
    gaps = np.abs(found[:, None] - vertices[None]).max(axis=(2, 3))
    return bool(np.all(gaps.min(axis=1) < 1e-3))


def _draw(inverse: np.ndarray) -> style.Figure:
    from matplotlib.patches import Polygon

    fig = style.figure(8.4, 7.8)
    [[planes], [space]] = fig.subfigures(2, 1, squeeze=False, height_ratios=(1, 1.12))
    source, image = planes.subplots(1, 2)
    for i, ((a, b), colour) in enumerate(zip(SIGNS, style.QUADRANTS, strict=True)):
        square = np.array([[0, 0], [a, 0], [a, b], [0, b]], float)
        for ax, corners in ((source, square), (image, square @ PIECES[i].T)):
            ax.add_patch(Polygon(corners, closed=True, fc=colour, ec="white", lw=1.5, alpha=0.85))
            centre = corners.mean(axis=0)
            ax.text(*centre, f"{i + 1}", ha="center", va="center", fontsize=15, color=style.INK)
        for k in np.linspace(0, 1, 6)[1:-1]:  # a mesh shows how each piece is sheared
            for line in (np.array([[a * k, 0], [a * k, b]]), np.array([[0, b * k], [a, b * k]])):
                source.plot(*line.T, color="white", lw=0.7)
                image.plot(*(line @ PIECES[i].T).T, color="white", lw=0.7)
    source.set(xlabel="$x$", ylabel="$y$", title="Four quadrants", xlim=(-1.2, 1.2),
               ylim=(-1.2, 1.2), aspect="equal")  # fmt: skip
    image.set(xlabel="$|x| + y$", ylabel="$2x + |y|$", title=r"Their images under $\Phi$",
              xlim=(-1.7, 2.5), xticks=[-1, 0, 1, 2], ylim=(-2.4, 3.4), aspect="equal")  # fmt: skip

    _draw_sets(space, inverse)
    return fig


def _draw_sets(space: SubFigure, inverse: np.ndarray) -> None:
    """Entries (1,1), (1,2), (2,2) of the matrices; entry (2,1) is twice entry (1,2)."""
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection

    ax: Any = space.add_subplot(projection="3d", position=(0.0, 0.0, 1.0, 1.0))
    corners = inverse[:, [0, 0, 1], [0, 1, 1]]
    faces = [np.delete(corners, i, axis=0) for i in range(4)]
    ax.add_collection3d(Poly3DCollection(faces, fc=style.SET, ec=style.SET, lw=1.5, alpha=0.13))
    a, b = np.meshgrid(np.linspace(-1, 1, 21), np.linspace(-1, 1, 21))
    det = a * b - 2
    ax.plot_surface(
        b / det, -1 / det, a / det, color=style.AD, ec="white", lw=0.25, alpha=0.9, shade=False
    )
    ax.scatter(*corners.T, color=style.SET, s=42, depthshade=False, clip_on=False)
    ax.set(xlabel="entry (1,1)", ylabel="entry (1,2)", zlabel="entry (2,2)")
    ax.set(xticks=[-1, 0, 1], yticks=[0.4, 0.7, 1.0], zticks=[-1, 0, 1])
    ax.view_init(elev=13, azim=-32)
    ax.set_box_aspect((1, 1.5, 1), zoom=1.08)
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.set_pane_color((0.97, 0.975, 0.985, 1.0))
    space.suptitle(
        r"$\partial^c\Phi^{-1}(0)$ (violet) holds the inverses of $\partial^c\Phi(0)$ (orange)"
    )


EXPERIMENT = Experiment(
    name="inverse",
    title="Inverting a piecewise linear map",
    source=SOURCE,
    description=(
        "Φ(x, y) = (|x| + y, 2x + |y|) maps the four quadrants onto four cones that tile the "
        "plane. The Clarke Jacobian of Φ at 0 is a square (dimension 2); that of its inverse is "
        "a tetrahedron (dimension 3, violet: the matrix entries 1,1, 1,2 and 2,2; entry 2,1 is "
        "twice entry 1,2). The inverses of the square's elements form a curved patch inside "
        "the tetrahedron (orange) and do not fill it: only the convex hulls agree."
    ),
    run=run,
)
