"""Plans made from other plans: the thesis's ablation (table 4-6), and channel pruning of a teacher.

The thesis searched operators and scales anew for its fixed-width and single-branch rows and does not print what it
found. Here they keep the given plan's operators and scales, so that a row differs from NASBraNet in what the row
is about and in nothing else.

    python -m models.nasbranet.variants        writes models/plans/thesis_*.json
"""

from __future__ import annotations

from pathlib import Path

from models.nasbranet.plan import PLANS, CellPlan, NetworkPlan

FIXED = 32
"""The ablation's width: the middle of the five expansions."""
NARROWEST = 16
"""The least of the five expansions."""


def fixed_width(plan: NetworkPlan, expansion: int) -> NetworkPlan:
    """Give all cells, stem and head one expansion: what the network is where widths are not searched."""
    branches = tuple(
        tuple(CellPlan(op=c.op, scale=c.scale, expansion=expansion) for c in branch) for branch in plan.branches
    )
    return _remade(plan, f"width {expansion}", branches, stem_expansion=expansion, head_expansion=expansion)


def single_branch(plan: NetworkPlan) -> NetworkPlan:
    """Keep only the branch that ends at the coarsest scale.

    It passes through all scales and sees farthest, and it is what the thesis's figures allow: there one branch of
    width 32 has 3.1 M parameters (13.5 GFLOPs); of the published plan's branches the one ending at 1/8 has 3.9 M
    (13.9), the one ending at 1/4 only 1.4 M (13.6).
    """
    deepest = max(plan.branches, key=lambda branch: branch[-1].scale)
    return _remade(plan, "one branch", (deepest,), shared=0)


def pruned(teacher: NetworkPlan) -> NetworkPlan:
    """Prune a teacher to the narrowest expansion everywhere (thesis section 4.4.4, "T to T pruned")."""
    return fixed_width(teacher, NARROWEST)


def ablation(plan: NetworkPlan) -> dict[str, NetworkPlan]:
    """The two fixed-width rows of table 4-6, by name."""
    return {
        "single_32": fixed_width(single_branch(plan), FIXED),
        "double_32": fixed_width(plan, FIXED),
    }


def save(plan: NetworkPlan, path: Path) -> None:
    """Write a plan as JSON."""
    path.write_text(plan.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _remade(plan: NetworkPlan, what: str, branches: tuple[tuple[CellPlan, ...], ...], **changed: int) -> NetworkPlan:
    """Copy a plan with other branches; validated anew, which `model_copy` does not do."""
    content = plan.model_dump() | changed | {"branches": branches}
    return NetworkPlan.model_validate(
        content | {"name": f"{plan.name}, {what}", "source": f"{plan.source}; {what} by models.nasbranet.variants"}
    )


if __name__ == "__main__":
    for name, variant in ablation(NetworkPlan.load("thesis")).items():
        save(variant, PLANS / f"thesis_{name}.json")
