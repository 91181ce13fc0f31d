"""A sigmoid gate on attention's output (Qiu et al. 2025, arXiv 2505.06708)."""

from __future__ import annotations

import libcst as cst

from ._patterns import after
from ._patterns import attention_forward
from ._patterns import before
from ._patterns import body_of
from ._patterns import Change
from ._patterns import copy_of
from ._patterns import first_parameter
from ._patterns import has_name
from ._patterns import initialisers
from ._patterns import linear_calls
from ._patterns import owner_of
from ._patterns import parse_lines
from ._patterns import replace_nodes
from ._patterns import times


def apply(module: cst.Module) -> cst.Module | None:
    """Multiply what the output projection reads by ``2 * sigmoid(self.gate(x))``.

    With zero weights, which the gate has where the projection begins with them, it is one.
    """
    forward = attention_forward(module)
    if forward is None or has_name(owner_of(module, forward), "gate"):
        return None
    x, layers = first_parameter(forward), linear_calls(module, forward)
    if len(layers) < 2:
        return None
    output = layers[-1]
    copy = copy_of(output.made, output.name, "gate")
    swapped = copy.deep_replace(_made(copy), _swapped(_made(copy)))
    assert isinstance(swapped, cst.SimpleStatementLine)
    gate = parse_lines(module, f"gate = 2 * torch.sigmoid(self.gate({x}))")
    changes: dict[cst.CSTNode, Change] = {
        output.made: after(swapped),
        body_of(forward)[0]: before(*gate),
        output.call: lambda c: c.with_changes(args=[cst.Arg(times(c.args[0].value, "gate"))]),
    }
    for statement in initialisers(module, "att", output.name):
        changes[statement] = after(copy_of(statement, output.name, "gate"))
    return replace_nodes(module, changes)


def _made(statement: cst.SimpleStatementLine) -> cst.Call:
    assignment = statement.body[0]
    assert isinstance(assignment, cst.Assign) and isinstance(assignment.value, cst.Call)
    return assignment.value


def _swapped(linear: cst.Call) -> cst.Call:
    # The projection maps heads to the model's width; the gate maps back.
    a, b, *rest = linear.args
    return linear.with_changes(
        args=[a.with_changes(value=b.value), b.with_changes(value=a.value), *rest]
    )
