"""A norm behind each residual branch as well as before it (Ding et al. 2021, arXiv 2105.13290)."""

from __future__ import annotations

import libcst as cst
import libcst.matchers as m

from ._patterns import block_forward
from ._patterns import body_of
from ._patterns import call
from ._patterns import Change
from ._patterns import norm_name
from ._patterns import replace_nodes
from ._patterns import residual_branch


def apply(module: cst.Module) -> cst.Module | None:
    """Make ``x = x + f(norm(x))`` of the block into ``x = x + norm(f(norm(x)))``."""
    forward, norm = block_forward(module), norm_name(module)
    if forward is None or norm is None:
        return None
    changes: dict[cst.CSTNode, Change] = {}
    for statement in body_of(forward):
        found = residual_branch(statement)
        if found is not None and not m.matches(found[1], m.Call(func=m.Name(norm))):
            changes[found[1]] = lambda branch: call(norm, branch)
    return replace_nodes(module, changes) if changes else None
