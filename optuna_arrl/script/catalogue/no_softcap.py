"""Logits as they are, without the soft cap of Gemma 2 (2024, arXiv 2408.00118)."""

from __future__ import annotations

import libcst as cst
import libcst.matchers as m

from ._patterns import become
from ._patterns import Change
from ._patterns import find
from ._patterns import replace_nodes


def apply(module: cst.Module) -> cst.Module | None:
    """Make ``cap * torch.tanh(logits / cap)`` into ``logits``, unless a condition rules it."""
    conditional = {
        node for choice in find(module, cst.IfExp) for node in find(choice, cst.BinaryOperation)
    }
    ratio = m.BinaryOperation(operator=m.Divide())
    tanh = m.Call(func=m.Attribute(attr=m.Name("tanh")), args=[m.Arg(ratio)])
    changes: dict[cst.CSTNode, Change] = {}
    for node in find(module, cst.BinaryOperation):
        if not isinstance(node.operator, cst.Multiply) or node in conditional:
            continue
        for cap, capped in ((node.left, node.right), (node.right, node.left)):
            if not m.matches(capped, tanh):
                continue
            inner = cst.ensure_type(capped, cst.Call).args[0].value
            inner = cst.ensure_type(inner, cst.BinaryOperation)
            if inner.right.deep_equals(cap):
                lpar, rpar = node.lpar or inner.left.lpar, node.rpar or inner.left.rpar
                changes[node] = become(inner.left.with_changes(lpar=lpar, rpar=rpar))
    return replace_nodes(module, changes) if changes else None
