"""Output projections begin at random, as in GPT-2 (Radford et al. 2019), and not at zero."""

from __future__ import annotations

import libcst as cst
import libcst.matchers as m

from ._patterns import Change
from ._patterns import find
from ._patterns import replace_nodes


def apply(module: cst.Module) -> cst.Module | None:
    """Make ``init.zeros_(….proj.weight)`` into ``init.normal_(….proj.weight, std=0.02)``."""
    projection = m.Name(m.MatchIfTrue(lambda text: "proj" in text))
    zeros = m.Call(
        func=m.Attribute(attr=m.Name("zeros_")),
        args=[m.Arg(m.Attribute(m.Attribute(attr=projection), m.Name("weight")))],
    )
    changes: dict[cst.CSTNode, Change] = {
        found: _normal for found in find(module, cst.Call) if m.matches(found, zeros)
    }
    return replace_nodes(module, changes) if changes else None


def _normal(zeros: cst.Call) -> cst.Call:
    weight = zeros.args[0]
    example = cst.ensure_type(cst.parse_expression("f(std=0.02)"), cst.Call)
    return zeros.with_changes(
        func=zeros.func.with_changes(attr=cst.Name("normal_")),
        args=[weight.with_changes(comma=cst.MaybeSentinel.DEFAULT), *example.args],
    )
