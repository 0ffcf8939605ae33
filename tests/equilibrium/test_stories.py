"""The two examples, shortened: they learn, and what they say is certified holds."""

import re
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_digits_are_learned_and_no_attack_within_the_radius_succeeds(tmp_path, capsys):
    story = runpy.run_path(str(EXAMPLES / "equilibrium_digits.py"))
    with jax.enable_x64(False):
        data = story["load"](0)
        assert (len(data.y), len(data.held_y)) == (1437, 360)
        model, history = story["train"](story["fully_connected"](jax.random.key(0)), data, 0, 4)
        assert history[-1].accuracy > 0.85
        assert sum(epoch.failures for epoch in history) == 0
        radii = story["radii"](model, data)
        images, radius = data.held_x[:40], radii[:40].clip(0)
        logits = np.asarray(story["answers"](model, images)[0])

        def runner_up(x, label):  # the largest step towards any other class
            out = model.solve(x)[0]
            return jnp.max(out.at[label].set(-jnp.inf)) - out[label]

        slopes = np.asarray(jax.vmap(jax.grad(runner_up))(images, logits.argmax(1)))
        steps = slopes / np.linalg.norm(slopes, axis=1, keepdims=True) * radius[:, None]
        moved = np.asarray(story["answers"](model, images + 0.999 * steps.astype(np.float32))[0])
        assert np.all(moved.argmax(1) == logits.argmax(1))
        story["draw"](history, radii, tmp_path / "digits.png")
    assert (tmp_path / "digits.png").read_bytes().startswith(b"\x89PNG")


def test_the_class_travels_along_the_chain(capsys):
    story = runpy.run_path(str(EXAMPLES / "implicit_graph_network.py"))
    with jax.enable_x64(False):
        story["main"](steps=60)
        told = capsys.readouterr().out
        assert float(re.search(r"class: ([\d.]+)%", told)[1]) > 60
        _, _, adjacency = story["chains"](0)
        model = story["network"](jax.random.key(0))
        limit = story["KAPPA"] / story["perron"](adjacency)
        cell = model.deq.cell.bounded(limit)
        # the modulus in the norm weighted by Perron's vector is at most κ, by brute force
        W = np.kron(np.asarray(cell.W, np.float64), np.asarray(adjacency, np.float64).T)
        assert np.max(np.abs(np.linalg.eigvals(np.abs(W)))) <= story["KAPPA"] + 1e-5
        assert story["certificate"](cell, adjacency).verdict.name == "PROVEN"
