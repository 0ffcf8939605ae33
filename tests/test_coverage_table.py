"""docs/coverage.md: what the calculus says of every function of jax.nn, optax.losses, optax.projections.

The table is made here. To refresh it: ``CONSERVAX_REFRESH=1 python -m pytest tests/test_coverage_table.py``.
"""

import inspect
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import primitives

import conservax as cx
from conservax.calculus.operations.domains import COMPLEX_EDGES, MATRIX_EDGES, REAL_EDGES, RULES
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
from conservax.errors import ConservaxError

PAGE = Path(__file__).parents[1] / "docs" / "coverage.md"
REFRESH = "CONSERVAX_REFRESH=1 python -m pytest tests/test_coverage_table.py"
VERSIONS = f"jax {jax.__version__}, optax {optax.__version__}"
ONE, TWO, THREE = np.array([0.0]), np.array([0.0, 0.0]), np.array([0.5, 0.5, -1.0])
SHARES, SIGNS = np.array([0.2, 0.3, 0.5]), np.array([1.0, -1.0])
Case = tuple  # (how the call reads, function of the differentiated array, point)

# Functions with nothing to differentiate, or that run on other machines.
LEFT_OUT = {
    "jax.nn": {
        "get_scaled_dot_general_config": "makes a configuration",
        "one_hot": "takes integers",
        "scaled_dot_general": "needs an accelerator",
        "scaled_matmul": "needs an accelerator",
    },
    "optax.losses": {},
    "optax.projections": {},
}


def on(x, read: str = "x"):
    """A case of a function of one array."""
    return lambda f: (read, f, np.asarray(x, float))


def given(read: str, x, *rest, **options):
    """A case with fixed arguments after the differentiated one."""
    return lambda f: (read, lambda y: f(y, *rest, **options), np.asarray(x, float))


CLASS = given("logits, class", THREE, 0)
SHARE = given("logits, shares", THREE, SHARES)
BINARY = given("x, ±1", [1.0, 0.3], SIGNS)
EMBEDDINGS = np.array([[1.0, 0.2], [0.3, -1.0], [0.9, 0.1]])
PLANE = np.array([1.0, 2.0, 0.0])
LOGITS = np.array([[[1.0, 0.5, -0.5], [0.2, 0.1, 0.3], [0.0, 1.0, 0.4]]])

CASES = {
    "jax.nn": {
        "dot_product_attention": lambda f: (
            "query, key, value",
            lambda q: f(q.reshape(1, 2, 1, 2), *[jnp.asarray(EMBEDDINGS[None, :2, None, :])] * 2),
            np.array([0.0, 0.5, 1.0, -1.0]),
        ),
        "glu": on([0.3, 0.0]),
        "hard_sigmoid": on([-3.0, 3.0]),
        "hard_silu": on([-3.0, 3.0]),
        "hard_swish": on([-3.0, 3.0]),
        "hard_tanh": on([-1.0, 1.0]),
        "log1mexp": on([np.log(2.0), 1.0]),
        "log_softmax": on(TWO),
        "logmeanexp": on(TWO),
        "logsumexp": on(TWO),
        "relu6": on([0.0, 6.0]),
        "softmax": on(TWO),
        "sparse_plus": on([-1.0, 1.0]),
        "sparse_sigmoid": on([-1.0, 1.0]),
        "standardize": on([0.0, 1.0]),
    },
    "optax.losses": {
        "binary_dice_loss": given("logits, targets", THREE, np.array([1.0, 0.0, 1.0])),
        "convex_kl_divergence": given("log shares, shares", np.log(SHARES), SHARES),
        "cosine_distance": given("x, target", [3.0, 4.0], SIGNS),
        "cosine_similarity": given("x, target", [3.0, 4.0], SIGNS),
        "ctc_loss": given(
            "logits, labels", LOGITS, np.zeros((1, 3)), np.array([[1, 2]]), np.zeros((1, 2))
        ),
        "ctc_loss_with_forward_probs": given(
            "logits, labels", LOGITS, np.zeros((1, 3)), np.array([[1, 2]]), np.zeros((1, 2))
        ),
        "dice_loss": given("logits, targets", LOGITS, np.eye(3)[None]),
        "generalized_kl_divergence": given("log shares, shares", np.log(SHARES), SHARES),
        "hinge_loss": BINARY,
        "huber_loss": given("x, target", [1.0, -1.0], np.zeros(2)),
        "kl_divergence": given("log shares, shares", np.log(SHARES), SHARES),
        "kl_divergence_with_log_targets": given(
            "log shares, log shares", np.log(SHARES), np.log(SHARES)
        ),
        "l2_loss": given("x, target", TWO, np.zeros(2)),
        "log_cosh": given("x, target", TWO, np.zeros(2)),
        "make_fenchel_young_loss": lambda f: (
            "logsumexp; logits, shares",
            lambda x: f(jax.nn.logsumexp)(x, SHARES),
            THREE,
        ),
        "multiclass_generalized_dice_loss": given("logits, targets", LOGITS, np.eye(3)[None]),
        "multiclass_hinge_loss": given("scores, class", [0.0, 1.0, 1.0], 0),
        "multiclass_perceptron_loss": CLASS,
        "multiclass_sparsemax_loss": given("scores, classes", [[0.5, 0.5, -0.5]], np.array([0])),
        "ntxent": given("embeddings, labels", EMBEDDINGS, np.array([0, 1, 0])),
        "perceptron_loss": given("x, ±1", [0.0, 0.3], SIGNS),
        "poly_loss_cross_entropy": SHARE,
        "ranking_softmax_loss": SHARE,
        "safe_softmax_cross_entropy": given("logits, shares", THREE, np.array([0.0, 0.5, 0.5])),
        "sigmoid_binary_cross_entropy": given("logits, targets", TWO, np.array([1.0, 0.0])),
        "sigmoid_focal_loss": given("logits, targets", TWO, np.array([1.0, 0.0])),
        "smooth_labels": given("shares, alpha", SHARES, 0.1),
        "softmax_cross_entropy": SHARE,
        "softmax_cross_entropy_with_integer_labels": CLASS,
        "sparsemax_loss": given("logits, ±1", [1.0, -1.0], np.array([1, 0])),
        "squared_error": given("x, target", TWO, np.zeros(2)),
        "triplet_margin_loss": given(
            "anchor, positive, negative", SIGNS, -SIGNS, -SIGNS, margin=0.0
        ),
    },
    "optax.projections": {
        "projection_box": given("x, lower, upper", [0.0, 1.0, 0.5], 0.0, 1.0),
        "projection_halfspace": given("x, a, b", [1.0, 0.0, 0.0], PLANE, 1.0),
        "projection_hypercube": on([0.0, 1.0, 0.5]),
        "projection_hyperplane": given("x, a, b", [1.0, 0.0, 0.0], PLANE, 1.0),
        "projection_l1_ball": on([0.5, -0.5, 0.0]),
        "projection_l1_sphere": on([1.0, -0.5, 0.5]),
        "projection_l2_ball": on([0.6, 0.8]),
        "projection_l2_sphere": on([3.0, 4.0]),
        "projection_linf_ball": on([1.0, -1.0, 0.5]),
        "projection_non_negative": on([0.0, 1.0]),
        "projection_simplex": on([0.5, 0.5, -0.25]),
        "projection_vector": given("x, a", TWO, SIGNS),
    },
}
MODULES = {"jax.nn": jax.nn, "optax.losses": optax.losses, "optax.projections": optax.projections}


def functions(module: str) -> list[str]:
    """The module's public functions, without those left out."""
    names = [n for n in dir(MODULES[module]) if not n.startswith("_")]
    found = [
        n
        for n in names
        if inspect.isroutine(getattr(MODULES[module], n))
        or hasattr(getattr(MODULES[module], n), "__wrapped__")
    ]
    return [n for n in found if n not in LEFT_OUT[module]]


def case_of(module: str, name: str) -> Case:
    function = getattr(MODULES[module], name)
    return CASES[module].get(name, on(ONE))(function)


def _sentence(error: Exception) -> str:
    """What an error says first, without the place in somebody's installation."""
    text = re.sub(r"\S*/site-packages/|\S*/(?=tests/)", "", str(error)).split(". ")[0]
    return re.sub(r"(\.py):\d+", r"\1", text)


def verdict(module: str, name: str) -> tuple[str, str, str]:
    """The call, the verdict, and the remark of one row."""
    read, fun, x = case_of(module, name)
    point = jnp.asarray(x)
    try:
        theirs = jax.tree.leaves(jax.jacrev(fun)(point))
    except Exception as error:
        return read, "JAX does not differentiate it", type(error).__name__
    try:
        J = cx.conservative_jacobian(fun)(point)
    except ConservaxError as error:
        return read, "refused", f"{type(error).__name__}: {_sentence(error)}"
    expected = np.concatenate([np.reshape(a, (-1, x.size)) for a in theirs])
    gap = np.abs(J.element("jax") - expected).max()  # attention computes in single precision
    assert gap < 1e-6, f"{module}.{name}: element('jax') differs from JAX by {gap}"
    kinks = dict.fromkeys(k.operation for k in J.kinks)
    rules = dict.fromkeys(rule for rule, _ in J.form.given_rules)
    remarks = [", ".join(kinks)] * bool(kinks) + [f"rule of its own: {', '.join(rules)}"] * bool(
        rules
    )
    count = f"{len(J.kinks)} active kink{'s' * (len(J.kinks) != 1)}"
    return read, f"works, {count}", "; ".join(remarks)


def table() -> str:
    lines = [
        "# What the calculus covers",
        "",
        "Every public function of `jax.nn`, `optax.losses` and `optax.projections`, differentiated in its",
        'first argument at a point on its kinks where it has any. Where it works, `element("jax")` is what',
        "`jax.jacobian` returns. Made by `tests/test_coverage_table.py` with " + VERSIONS + ";",
        f"to refresh: `{REFRESH}`.",
        "",
    ]
    for module in MODULES:
        lines += [
            f"## {module}",
            "",
            "| Function | Of | Point | Verdict | Remarks |",
            "| --- | --- | --- | --- | --- |",
        ]
        for name in functions(module):
            read, what, remark = verdict(module, name)
            x = case_of(module, name)[2]
            point = "random" if x.size > 4 else ", ".join(f"{v:.3g}" for v in x.ravel())
            cells = [f"`{name}`", read, point, what, remark]
            lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
        lines.append("")
        if LEFT_OUT[module]:
            left = "; ".join(f"`{n}` {why}" for n, why in LEFT_OUT[module].items())
            lines += [f"Left out: {left}.", ""]
    return "\n".join(lines + primitive_lines())


MEANING = {
    SMOOTH: "JAX's own derivative, wherever it is finite",
    EDGED: "the same, and the point is refused where that is no derivative",
    KINKED: "a set of slopes at each kink",
    JUMPS: "locally constant; at a jump accepted if the program mends it "
    "(`rem` within `mod`, `%` and `//`; not `fmod`)",
    STEERS: "a comparison, or what joins comparisons: one kink for all that it steers",
    CONSTANT: "the derivative 0 by decree",
    OPENED: "the program inside is read",
    GIVEN: "a rule of the user's own: taken as it is, and nothing is called exact",
    REFUSED: "by name and line, where an operand varies",
}


def primitive_lines() -> list[str]:
    """What becomes of every primitive of JAX's, counted and listed."""
    names = sorted({p.name for p in vars(primitives).values() if hasattr(p, "get_bind_params")})
    treated = {kind: [n for n in names if treatment(n) == kind] for kind in MEANING}
    assert sum(map(len, treated.values())) == len(names)
    edges = {
        f"{name} of complex numbers" if table is COMPLEX_EDGES else name: edge.operation
        for table in (REAL_EDGES, COMPLEX_EDGES, MATRIX_EDGES)
        for name, (edge,) in table.items()
        if treatment(name) == EDGED
    }
    edges |= {name: own[0].operation for name, own in RULES.items() if own}
    lines = [
        f"## The {len(names)} primitives of JAX",
        "",
        "What becomes of an operand that varies. None is passed over: "
        "`tests/calculus/test_primitives.py` walks",
        "them all.",
        "",
        "| Treatment | Number | Meaning | Primitives |",
        "| --- | --- | --- | --- |",
    ]
    for kind, members in treated.items():
        listed = " ".join(f"`{m}`" for m in members)
        lines.append(f"| {kind} | {len(members)} | {MEANING[kind]} | {listed} |")
    lines += [
        "",
        "Edges of smooth operations, and of JAX's own rules, checked where the program runs:",
        "",
    ]
    lines += [f"* `{name}`: {edge}" for name, edge in edges.items()]
    others = [name for name, edges in RULES.items() if not edges]
    lines += [
        "",
        "JAX's own rules that are smooth: "
        + ", ".join(f"`{n}`" for n in others)
        + ". Its other rules",
        "(`lax.custom_root`, `odeint`, …) hold what a user wrote, and count as given.",
        "",
        "A solve of this library (`custom_root`, programs, `CvxpyLayer`, …) is no given rule but a node: its",
        "equations are read like any program, their kinks among them ([how](certificates.md#solves-inside)).",
        "",
    ]
    return lines


def test_the_page_is_what_the_calculus_does_today():
    made = table()
    if os.environ.get("CONSERVAX_REFRESH"):
        PAGE.write_text(made)
    if VERSIONS not in PAGE.read_text():
        pytest.skip(f"the page was made with other versions than {VERSIONS}")
    assert PAGE.read_text() == made, (
        f"docs/coverage.md is not up to date; refresh it with {REFRESH}"
    )


def test_every_function_has_a_row():
    for module, cases in CASES.items():
        assert set(cases) <= set(functions(module))
        assert set(functions(module)) <= {*cases, *dir(jax.nn)}
