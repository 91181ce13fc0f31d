"""Attention and MLP side by side on the same input (PaLM 2022, arXiv 2204.02311)."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import libcst as cst

from ._patterns import block_forward
from ._patterns import body_of
from ._patterns import Change
from ._patterns import replace_nodes
from ._patterns import residual_branch


def apply(module: cst.Module) -> cst.Module | None:
    """Join ``x = x + f(x)`` and the next ``x = x + g(x)`` to ``x = x + f(x) + g(x)``."""
    forward = block_forward(module)
    if forward is None:
        return None
    for first, second in pairwise(body_of(forward)):
        f, g = residual_branch(first), residual_branch(second)
        if f is not None and g is not None and f[0] == g[0]:
            changes: dict[cst.CSTNode, Change] = {
                f[1]: partial(cst.BinaryOperation, operator=cst.Add(), right=g[1]),
                second: lambda _: cst.RemoveFromParent(),
            }
            return replace_nodes(module, changes)
    return None
