"""Run all benchmarks; write results.json beside this file and the tables in docs/benchmarks.md.

With names of files here, such as ``programs_vs_cvxpylayers``, only their rows are measured anew.
"""

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import calculus_at_size
import certificates
import cvxpy_layer
import flows_vs_diffrax
import implicit_vs_jaxopt
import jax
import minimisation
import optimisers
import programs_vs_cvxpylayers
import select_overhead
import select_tracing
import sparse_models
import sparse_programs
from rich.progress import Progress

import equilibrium
import iterates
import solvers

HERE = Path(__file__).parent
MODULES = {
    "implicit gradient": implicit_vs_jaxopt,
    "select": select_overhead,
    "tracing": select_tracing,
    "calculus at size": calculus_at_size,
    "certificates": certificates,
    "programs": programs_vs_cvxpylayers,
    "solvers": solvers,
    "cvxpy layer": cvxpy_layer,
    "sparse programs": sparse_programs,
    "iterates": iterates,
    "optimisers": optimisers,
    "minimisation": minimisation,
    "flows": flows_vs_diffrax,
    "sparse models": sparse_models,
    "equilibrium": equilibrium,
}
"""By the name that a row carries."""
PEERS = ("jaxopt", "cvxpylayers", "diffcp", "moreau", "ott-jax", "celer", "diffrax", "optax")


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, the first column left and the others right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def page(results: dict) -> str:
    """The Markdown page that shows the results."""
    machine = results["machine"]
    implicit = [
        [
            row["problem"],
            *(
                f"{row[who][key]:{form}}"
                for who in ("conservax", "jaxopt")
                for key, form in (
                    ("warm_ms", ".3g"),
                    ("first_call_ms", ".0f"),
                    ("relative_error", ".0e"),
                )
            ),
            f"{row['ratio_warm']:.2f}",
            f"{row['ratio_first_call']:.2f}",
        ]
        for row in results["rows"]
        if row["benchmark"] == "implicit gradient"
    ]
    select = [
        [
            label,
            f"{row[name]['warm_ms']:.3g}",
            f"{row[name]['ratio_warm']:.3f}",
            f"{row[name]['first_call_ms']:.0f}",
            f"{row[name]['ratio_first_call']:.2f}",
        ]
        for row in results["rows"]
        if row["benchmark"] == "select"
        for name, label in (
            ("plain", "`jax.value_and_grad(loss)`"),
            ("select_jax", '`... (cx.select(loss, "jax"))`'),
            ("select_upper", '`... (cx.select(loss, "upper"))`'),
        )
    ]
    tracing = [
        [f"`{r['problem']}`", f"{r['plain_ms']:.1f}", f"{r['select_ms']:.1f}", f"{r['ratio']:.2f}"]
        for r in results["rows"]
        if r["benchmark"] == "tracing"
    ]
    size = [
        [
            r["problem"],
            str(r["active"]),
            f"{r['cold_s']:.2f}",
            f"{r['warm_s']:.3f}",
            f"{r['peak_mib']:.0f}",
        ]
        for r in results["rows"]
        if r["benchmark"] == "calculus at size"
    ]
    certified = [
        [
            r["problem"],
            str(r["unknowns"]),
            str(r["kinks"]),
            r["method"],
            f"{r['seconds']:.3g}",
            f"{r['peak_mib']:.0f}",
        ]
        for r in results["rows"]
        if r["benchmark"] == "certificates"
    ]
    programs, layers, large = (
        [row for row in results["rows"] if row["benchmark"] == name]
        for name in ("programs", "cvxpy layer", "sparse programs")
    )
    headings = ["ms", "first call, ms", "relative error"]
    return f"""# Benchmarks

Written by `make bench`, with Python {machine["python"]}, jax {machine["jax"]} and jaxopt
{machine["jaxopt"]} on {machine["cores"]} cores ({machine["device"]}).

The contenders take turns in one process. A time is the median over the rounds, a ratio the median
of the ratios within a round, which means something even where a time does not. "ms" is a call of
the compiled function, with JAX warm; "first call" includes tracing and compiling, caches cleared
before.

## Implicit gradients

`jax.jit(jax.value_and_grad(loss))` in the regularisation parameter, in float64. Both libraries are
handed the same optimality function and the same solution and use their default linear solvers: the
time is that of the backward pass. The error is relative to the closed form (for the Lasso: on the
support). A ratio below 1 says that conservax is faster.

{
        table(
            [
                "problem",
                *(f"{who}: {heading}" for who in ("conservax", "jaxopt") for heading in headings),
                "ratio",
                "ratio, first call",
            ],
            implicit,
        )
    }

## What `select` costs

Value and gradient of a relu network with {select_overhead.LAYERS} layers of width {
        select_overhead.WIDTH
    },
a batch of {select_overhead.BATCH}, in float32.

{table(["program", "ms", "ratio", "first call, ms", "ratio, first call"], select)}

What it adds to tracing: `jax.make_jaxpr` of programs of {select_tracing.LAYERS} layers.

{table(["layer", "plain, ms", "with select, ms", "ratio"], tracing)}

## The set of a large program

`conservative_jacobian` at a point, in a process of its own, in float64. "Cold" is the first call,
tracing and compilation included, "warm" a later one at a point of the same shape.

{table(["program", "active kinks", "cold, s", "warm, s", "peak memory, MiB"], size)}

## Certificates

`certify` of an abs-normal form, on one core, in a process of its own. "hard" is a P-matrix on which no
inequality holds, so that all 2^k minors are visited (or, beyond 25 kinks, the set is divided);
"monotone" is z = relu(Wz + b) with W + Wᵀ negative definite.

{table(["map", "unknowns", "active kinks", "decided by", "s", "peak memory, MiB"], certified)}

## Cone and quadratic programs

`QuadraticProgram` and `ConeProgram` under `jax.jit`, beside cvxpylayers' JAX layer ({
        machine["cvxpylayers"]
    }, with
diffcp {
        machine["diffcp"]
    }, its default backend), which is called eagerly, for it knows no jit; float64. The
gradient is that of ‖x‖² in every datum of the program that varies with the item: c, G, h; c, A, b; or
C; the objective's matrix is a constant to both.
"Times faster" is the median of the ratios within a round, above 1 where conservax is faster.

{
        table(
            [
                "program",
                "variables",
                "rows",
                "batch",
                "forward, ms",
                "with gradient, ms",
                "cvxpylayers: forward, ms",
                "with gradient, ms",
                "times faster: forward",
                "with gradient",
            ],
            [programs_vs_cvxpylayers.speeds(row) for row in programs],
        )
    }

What the gradient and the verdict add to the forward solve; the first calls (tracing and compiling,
caches cleared before); and on two items the largest differences, relative to the largest entry:
conservax's x from that of cvxpylayers with its solver set to a tolerance of {
        programs_vs_cvxpylayers.ACCURATE["eps"]:.0e}, conservax's
gradient from central differences of its x, along one direction, and cvxpylayers' gradient, as it was
timed, from conservax's: diffcp solves its linear system by LSQR and stops early.

{
        table(
            [
                "program",
                "batch",
                "gradient",
                "verdict",
                "proven",
                "first call, s",
                "with gradient, s",
                "x, off",
                "gradient, off",
                "cvxpylayers' gradient, off",
            ],
            [programs_vs_cvxpylayers.shares(row) for row in programs],
        )
    }

One eager call of `CvxpyLayer`, what it adds to the compiled solver on the same data, and cvxpylayers'; ms.

{
        table(
            [
                "program",
                "solver",
                "layer",
                "with gradient, jitted",
                "cvxpylayers",
                "with gradient",
                "layer beyond solver",
            ],
            [cvxpy_layer.cells(row) for row in layers],
        )
    }

## Sparse programs

`ConeProgram` with sparse data under `jax.jit` beside a direct call of Clarabel, whose answer it polishes and
differentiates; in a process of its own. The gradient, in c, b and every stored entry of A, and the verdict
as shares of the forward solve; x against Clarabel's at 1e-12. Each call has the rows in an order of its own;
from a warm start the order stays and c moves by 1 %.

{
        table(
            [
                "program",
                "variables",
                "rows",
                "Clarabel, s",
                "forward, s",
                "ratio",
                "gradient",
                "verdict",
                "",
                "x, off",
                "warm start, s",
                "peak memory, MiB",
            ],
            [sparse_programs.cells(row) for row in large],
        )
    }
{"".join(section(results["rows"]) for section in SECTIONS)}"""


def own(rows: list[dict], name: str) -> list[dict]:
    """The rows of one benchmark."""
    return [row for row in rows if row["benchmark"] == name]


def iterates_section(rows: list[dict]) -> str:
    """Differentiated algorithms; empty before they were measured."""
    cells = [iterates.cells(row) for row in own(rows, "iterates")]
    if not cells:
        return ""
    return f"""
## Differentiated algorithms

Value and gradient of a function of Sinkhorn's plan beside ott-jax (in its log domain, and on its kernel), and
what the implicit and the piggyback derivative of an elastic net cost against one run; ms, warm.

{table(["problem", "ms", "ratios"], cells)}
"""


def optimisers_section(rows: list[dict]) -> str:
    """Optimisers beside optax's Adam; empty before they were measured."""
    lines = [line for row in own(rows, "optimisers") for line in optimisers.cells(row)]
    if not lines:
        return ""
    return f"""
## Optimisers

A step with its update, jitted, buffers donated, on {optimisers.LAYERS * optimisers.SIZE:,} parameters in
float32, beside optax's Adam. A ratio below 1 is faster than Adam.

{table(["optimiser", "ms", "ratio to Adam"], lines)}
"""


def minimisation_section(rows: list[dict]) -> str:
    """Nonsmooth minimisation by method; empty before it was measured."""
    lines = [minimisation.cells(row) for row in own(rows, "minimisation")]
    if not lines:
        return ""
    return f"""
## Nonsmooth minimisation

Evaluations until the value is within {minimisation.GOAL:.0e} of the minimum, relative to max(1, |f*|), of
at most {minimisation.BUDGET:,}; else how far off the run ends. ★: it ended with a certificate of criticality at
ε = δ = {minimisation.TOL:.0e} that its own points verify. SciPy's BFGS gets the same gradients.

{table(["function", "variables", *(f'`"{m}"`' for m in minimisation.METHODS), "SciPy"], lines)}
"""


def flows_section(rows: list[dict]) -> str:
    """Flows beside diffrax; empty before they were measured."""
    cells = [flows_vs_diffrax.cells(row) for row in own(rows, "flows")]
    if not cells:
        return ""
    headings = ["ms", "first call, ms", "relative error"]
    columns = [f"{who}: {heading}" for who in ("conservax", "diffrax") for heading in headings]
    return f"""
## Flows

`cx.flows.odeint` beside diffrax's `diffeqsolve` with its default adjoint: value and gradient under
`jax.jit`, Tsit5, both tolerances 1e-8. The error is that of the gradient, relative to its largest entry.

{table(["problem", *columns, "ratio"], cells)}
"""


def equilibrium_section(rows: list[dict]) -> str:
    """Equilibrium layers beside monDEQ and TorchDEQ; empty before they were measured."""
    cells = [equilibrium.cells(row) for row in own(rows, "equilibrium")]
    if not cells:
        return ""
    header = ["units", "conservax, ms", "error", "first call, s"]
    for peer in ("monDEQ in JAX", "monDEQ in PyTorch", "TorchDEQ"):
        header += [f"{peer}: error", "times"]
    return f"""
## Equilibrium layers

A training step of a monotone equilibrium layer (float32, batch {equilibrium.BATCH}), every contender at the
loosest tolerance that keeps the relative error of its gradient below {equilibrium.WANTED:.0e}, monDEQ's
recursion at its best step size. "Times" is a contender's time over conservax's.

{table(header, cells)}
"""


def solvers_section(rows: list[dict]) -> str:
    """Programs by solver; empty before they were measured."""
    cells = [solvers.cells(row) for row in own(rows, "solvers")]
    if not cells:
        return ""
    columns = [head for name in solvers.CONTENDERS for head in (name, "first, s")]
    return f"""
## Programs and their solvers

Forward / gradient in the objective's vector, warm, in ms, and the first value and gradient of a fresh process,
imports excluded, in s: under `jax.jit`, eagerly, with Clarabel asked for, Moreau's own JAX front, and
cvxpylayers' JAX layer, eagerly, with its back ends diffcp and Moreau.

{table(["program (variables, rows, batch)", *columns], cells)}
"""


def sparse_models_section(rows: list[dict]) -> str:
    """Hypergradients and searches of sparse models; empty before they were measured."""
    mine = [row for row in rows if row["benchmark"] == "sparse models"]
    slopes = [sparse_models.cells(row) for row in mine if "ms" in row]
    searches, *others = [sparse_models.ways(row) for row in mine if "ways" in row] or [[]]
    elsewhere = [line for lines in others for line in lines]
    beyond = [
        [row["problem"], name, f"{value:.3g}"]
        for row in mine
        for name, value in (row.get("beyond") or row.get("memory") or {}).items()
    ]
    if not mine:
        return ""
    header = [
        "problem",
        "gradient, ms",
        "solve",
        "from the solution",
        "celer's solve",
        "gradient to celer",
        "to solve",
        "to sparse-ho",
    ]
    return f"""
## Sparse models

The Lasso on one half of the samples, its error on the other and the derivative in log α, eagerly, beside one
solve of celer at a duality gap of 1e-8.

{table(header, slopes)}

The penalty by cross-validation, 1000 samples, 5000 features, five folds, one run each; errors relative to
celer's path of 100 points.

{table(["way", "s", "error", "above"], searches)}

The elastic net's two penalties beside a grid, and a penalty a feature beside one for all (errors on new
samples); errors relative to the last of each pair.

{table(["way", "s", "error", "above"], elsewhere)}

Milliseconds beyond the solve; memory and time of a sparse design.

{table(["problem", "what", "value"], beyond)}
"""


SECTIONS = (
    solvers_section,
    iterates_section,
    optimisers_section,
    minimisation_section,
    flows_section,
    sparse_models_section,
    equilibrium_section,
)


def installed(name: str) -> str:
    """The version of a peer."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def kept(measured: set[str]) -> list[dict]:
    """The rows of the last run that this one does not measure."""
    last = HERE / "results.json"
    if set(MODULES) <= measured or not last.exists():
        return []
    return [r for r in json.loads(last.read_text())["rows"] if r["benchmark"] not in measured]


def main(names: list[str]) -> None:
    """Measure, write, and say where."""
    known = {module.__name__: key for key, module in MODULES.items()}
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"no benchmark is called {', '.join(unknown)}; there are: {', '.join(known)}")
    chosen = [known[name] for name in names or known]
    jax.config.update("jax_enable_x64", True)
    rows = kept(set(chosen))
    with Progress() as progress:
        for module in (MODULES[key] for key in chosen):
            task = progress.add_task(module.__name__, total=module.rounds())
            rows += module.measure(lambda task=task: progress.advance(task))
    rows.sort(key=lambda row: list(MODULES).index(row["benchmark"]))
    machine = {
        "cores": os.cpu_count(),
        "device": str(jax.devices()[0].device_kind),
        "python": platform.python_version(),
        **{name: version(name) for name in ("jax", "conservax")},
        **{name: installed(name) for name in PEERS},
    }
    results = {"machine": machine, "rows": rows}
    (HERE / "results.json").write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    target = HERE.parent / "docs" / "benchmarks.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text(page(results))
    print(target.read_text())


if __name__ == "__main__":
    main(sys.argv[1:])
