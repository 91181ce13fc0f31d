"""Queries and keys as they are, the norm that most scripts add (Henry et al. 2020) taken off."""

from __future__ import annotations

import libcst as cst
import libcst.matchers as m

from ._patterns import attention_forward
from ._patterns import Change
from ._patterns import find
from ._patterns import has_name
from ._patterns import norm_name
from ._patterns import replace_nodes


def apply(module: cst.Module) -> cst.Module | None:
    """Make ``norm(q)`` and ``norm(k)`` of attention into ``q`` and ``k``."""
    forward, norm = attention_forward(module), norm_name(module)
    if forward is None or norm is None:
        return None
    changes: dict[cst.CSTNode, Change] = {}
    for found in find(forward, cst.Call):
        if m.matches(found, m.Call(func=m.Name(norm), args=[m.Arg()])) and has_name(
            found, "q", "k"
        ):
            changes[found] = lambda c: c.args[0].value
    return replace_nodes(module, changes) if changes else None
