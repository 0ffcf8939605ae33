"""When can an implicit derivative be trusted? Three stories: certified, refuted, undecided.

1. Banks that owe each other money. What each pays solves (Eisenberg and Noe 2001)

       p = min(d, max(0, e + Πᵀ p)) ,

   d the debts, e the cash, Π_ij the share of bank i's debt that is owed to bank j. One bank stands
   exactly at the edge of default, where the payments have a kink in e. The derivative is proven to
   exist, and both of its sides are printed: what one unit of rescue money does.
2. Three banks that owe each other in a ring and hold no cash. The same equation, and no derivative:
   any common payment solves it. The check refutes, with a witness that one SVD confirms.
3. A ring of genes, each switched on by the one before it and the first switched off by the last.
   A thousand units of work leave it undecided, and the report says how many would do.

Run:  python examples/certificates_tour.py
"""

import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx

# Story 1: four banks; row i says to whom bank i owes, and how much.
OWED = np.array(
    [
        [0.0, 4.0, 2.0, 0.0],
        [3.0, 0.0, 1.0, 2.0],
        [0.0, 5.0, 0.0, 1.0],
        [1.0, 1.0, 1.0, 0.0],
    ]
)
OUTSIDE = np.array([2.0, 2.0, 2.0, 1.0])  # owed to savers, who are no banks
NAMES = ("Ash", "Birch", "Cedar", "Dogwood")


def clearing(owed: np.ndarray, outside: np.ndarray):
    """F(p, e) = p − min(d, max(0, e + Πᵀ p)): zero where every bank pays what it can."""
    debts = owed.sum(axis=1) + outside
    shares = jnp.asarray(owed / debts[:, None])
    limits = jnp.asarray(debts)

    def F(payments, cash):
        return payments - jnp.clip(cash + shares.T @ payments, 0.0, limits)

    return F


def pay(owed: np.ndarray, outside: np.ndarray, cash: np.ndarray) -> np.ndarray:
    """The payments p, by iterating from full payment down."""
    debts = owed.sum(axis=1) + outside
    shares = owed / debts[:, None]
    payments = debts.copy()
    for _ in range(2000):
        payments = np.clip(cash + shares.T @ payments, 0.0, debts)
    return payments


def at_the_edge() -> tuple[np.ndarray, np.ndarray]:
    """(cash, payments) where Ash defaults and Birch has its debts to the last cent."""
    debts = OWED.sum(axis=1) + OUTSIDE
    shares = OWED / debts[:, None]
    cash = np.array([0.5, 0.0, 3.0, 3.0])
    # Birch pays in full, so the others' payments do not depend on its cash: set that to what lacks
    cash[1] = 100.0
    payments = pay(OWED, OUTSIDE, cash)
    cash[1] = debts[1] - shares[:, 1] @ payments
    return cash, payments


def certified() -> None:
    """A kink, and yet both derivatives can be trusted."""
    F = clearing(OWED, OUTSIDE)
    cash, payments = map(jnp.asarray, at_the_edge())
    print("1. CERTIFIED: four banks, one at the edge of default\n")
    for name, held, paid, debt in zip(
        NAMES, cash, payments, OWED.sum(axis=1) + OUTSIDE, strict=True
    ):
        print(f"   {name:8} holds {held:5.2f}, pays {paid:5.2f} of {debt:5.2f}")
    print()
    print(cx.check(F, payments, cash))
    J = cx.implicit_jacobian(F)(payments, cash)
    print("\n   One unit of cash for Birch moves the payments of all banks together by")
    for label, side in (("more", 1.0), ("less", -1.0)):
        total = J.directional(side * np.eye(4)[1]).sum() * side
        print(f"   {total:.4f} per unit, if it holds {label} than now")
    everyone = np.outer(np.ones(4), np.eye(4)[1])
    print(f"   and between {-J.support(-everyone) + 0.0:.4f} and {J.support(everyone):.4f} for any")
    print("   choice of slopes: the set of derivatives holds both sides and what lies between.")


def refuted() -> None:
    """The same equation, where money runs in a ring."""
    owed, outside, cash = np.roll(np.eye(3), 1, axis=1), np.zeros(3), jnp.zeros(3)
    F = clearing(owed, outside)
    print("\n\n2. REFUTED: three banks owe each other in a ring, and nobody holds cash\n")
    report = cx.check(F, jnp.ones(3), cash)
    print(report)
    smallest, largest = report.recheck()
    print(f"\n   Rebuilt and checked by one SVD: σ_min = {smallest:.1e}, σ_max = {largest:.2f}.")
    half = np.abs(F(jnp.full(3, 0.5), cash)).max()
    print("   The null vector moves all payments alike, and indeed paying half each solves the")
    print(
        f"   equation as well as paying in full (residual {half:.0e}): the solution is not unique."
    )


def undecided() -> None:
    """A ring of 18 genes: 2¹⁸ choices of slopes, and no short proof."""

    def ring(y, growth):
        incoming = growth * jnp.roll(y, 1)
        return y - jax.nn.relu(incoming.at[0].multiply(-1))

    print("\n\n3. UNDECIDED: a ring of 18 genes, all at their thresholds, with little work\n")
    state, growth = jnp.zeros(18), jnp.asarray(1.5)
    print(cx.check(ring, state, growth, budget=1000))
    print("\n   With the work that the report asks for:\n")
    report = cx.check(ring, state, growth)
    print(f"   {report.verdict.name}, margin {report.margin:.1e}: {report.method}")


def main() -> None:
    """Tell the three stories."""
    jax.config.update("jax_enable_x64", True)
    certified()
    refuted()
    undecided()


if __name__ == "__main__":
    main()
