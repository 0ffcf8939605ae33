"""σ and its Jacobian in plain NumPy, and from them the equilibrium's gradients by a dense float64 solve."""

import numpy as np

GROUP, LAMBDA = 4, 0.1


def _grouped(a):
    v = a.reshape(-1, GROUP)
    return v, np.linalg.norm(v, axis=1, keepdims=True)


def _group_soft(a):
    v, length = _grouped(a)
    return (v * np.maximum(1 - LAMBDA / length, 0)).ravel()


def _group_jacobian(a):
    v, length = _grouped(a)
    blocks = np.zeros((a.size, a.size))
    for k in range(len(v)):
        if length[k] > LAMBDA:
            unit = v[k] / length[k]
            shrink = LAMBDA / length[k]
            place = slice(k * GROUP, (k + 1) * GROUP)
            blocks[place, place] = (1 - shrink) * np.eye(GROUP) + shrink * np.outer(unit, unit)
    return blocks


def _softmax(a):
    e = np.exp(a - a.max())
    return e / e.sum()


SIGMA = {
    "relu": lambda a: np.maximum(a, 0),
    "leaky_relu": lambda a: np.where(a >= 0, a, 0.01 * a),
    "tanh": np.tanh,
    "soft_threshold": lambda a: np.sign(a) * np.maximum(np.abs(a) - LAMBDA, 0),
    "box": lambda a: np.clip(a, 0, 1),
    "softmax": _softmax,
    "group": _group_soft,
}
JACOBIAN = {
    "relu": lambda a: np.diag((a > 0) * 1.0),
    "leaky_relu": lambda a: np.diag(np.where(a >= 0, 1, 0.01)),
    "tanh": lambda a: np.diag(1 - np.tanh(a) ** 2),
    "soft_threshold": lambda a: np.diag((np.abs(a) > LAMBDA) * 1.0),
    "box": lambda a: np.diag(((a > 0) & (a < 1)) * 1.0),
    "softmax": lambda a: np.diag(_softmax(a)) - np.outer(_softmax(a), _softmax(a)),
    "group": _group_jacobian,
}


def equilibrium(name, W, c):
    """z = σ(W z + c) by a damped Newton method, to round-off."""
    n = len(c)
    z = SIGMA[name](c)
    for _ in range(200):
        a = W @ z + c
        F = z - SIGMA[name](a)
        if np.linalg.norm(F) < 1e-15 * (1 + np.linalg.norm(z)):
            break
        move = np.linalg.solve(np.eye(n) - JACOBIAN[name](a) @ W, F)
        t = 1.0
        while t > 1e-4 and np.linalg.norm((z - t * move) - SIGMA[name](W @ (z - t * move) + c)) > (
            1 - 0.1 * t
        ) * np.linalg.norm(F):
            t /= 2
        z = z - t * move
    return z


def gradients(name, m, A, B, U, b, x, cotangent):
    """Of cotangent·z in A, B, U, b, x, from W = (1 − m)I − AᵀA + B − Bᵀ; and the equilibrium."""
    n = len(b)
    W = (1 - m) * np.eye(n) - A.T @ A + B - B.T
    z = equilibrium(name, W, U @ x + b)
    J = JACOBIAN[name](W @ z + U @ x + b)
    t = J @ np.linalg.solve(np.eye(n) - W.T @ J, cotangent)
    of_W = np.outer(t, z)
    return z, {
        "A": -A @ (of_W + of_W.T),
        "B": of_W - of_W.T,
        "U": np.outer(t, x),
        "b": t,
        "x": U.T @ t,
    }
