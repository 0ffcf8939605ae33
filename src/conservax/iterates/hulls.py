"""Convex hulls of few points in few dimensions: extreme points, distances."""

from __future__ import annotations

import numpy as np

from ..calculus.sets.hull import nearest_point

_QHULL = 4  # dimensions in which hulls are computed exactly


def extreme_points(points: np.ndarray, limit: int) -> tuple[np.ndarray, float]:
    """Points (V, n) whose hull is that of the given ones, and by how much it may fall short of it.

    Dropped are points within round-off of the hull of the others; beyond ``limit`` points, those that lie
    least far out as well, and the number returned bounds the distance of the dropped ones.
    """
    scale = float(np.abs(points).max(initial=0.0)) or 1.0
    points = np.unique(np.round(points / scale, 13), axis=0) * scale
    centre = points.mean(axis=0)
    left, sizes, _ = np.linalg.svd(points - centre, full_matrices=False)
    rank = int(np.sum(sizes > 1e-12 * scale * np.sqrt(len(points))))
    if rank == 0:
        return points[:1], 0.0
    flat = left[:, :rank] * sizes[:rank]
    kept = np.arange(len(points))
    if rank == 1:
        kept = np.array([np.argmin(flat[:, 0]), np.argmax(flat[:, 0])])
    elif rank <= _QHULL and len(points) > rank + 1:
        from scipy.spatial import ConvexHull, QhullError

        try:
            kept = ConvexHull(flat).vertices
        except QhullError:  # thinner than it can tell: all of them stay
            kept = np.arange(len(points))
    elif rank > _QHULL:
        kept = _outside(flat, kept)
    if len(kept) <= limit:
        return points[kept], 0.0
    chosen = _spread(flat[kept], limit)
    dropped = np.setdiff1d(np.arange(len(kept)), chosen)
    short = max(distance(flat[kept][i], flat[kept][chosen]) for i in dropped)
    return points[kept][chosen], short


def distance(point: np.ndarray, points: np.ndarray) -> float:
    """The Euclidean distance of a point to the hull of others, bounded from above."""
    return nearest_point(lambda c: _support(points, c), point, points[0]).upper


def _support(points: np.ndarray, direction: np.ndarray) -> tuple[float, np.ndarray]:
    values = points @ direction
    best = int(np.argmin(values))
    return float(values[best]), points[best]


def _outside(points: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Drop points of the hull of the others, one after the other."""
    scale = float(np.abs(points).max())
    for i in list(kept):
        others = kept[kept != i]
        if len(others) and distance(points[i], points[others]) <= 1e-12 * scale:
            kept = others
    return kept


def _spread(points: np.ndarray, limit: int) -> np.ndarray:
    """Places of points that are extreme in many directions, evenly drawn."""
    directions = np.random.default_rng(0).normal(size=(4 * limit, points.shape[1]))
    places = np.argmax(points @ directions.T, axis=0)
    order = np.unique(places, return_counts=True)
    return order[0][np.argsort(-order[1])[:limit]]
