"""A linear gate on the MLP's hidden layer, a third matrix (Shazeer 2020, arXiv 2002.05202)."""

from __future__ import annotations

import libcst as cst
import libcst.matchers as m

from ._patterns import after
from ._patterns import before
from ._patterns import body_of
from ._patterns import Change
from ._patterns import copy_of
from ._patterns import first_parameter
from ._patterns import has_name
from ._patterns import initialisers
from ._patterns import linear_calls
from ._patterns import methods
from ._patterns import owner_of
from ._patterns import parse_lines
from ._patterns import replace_nodes
from ._patterns import times


def apply(module: cst.Module) -> cst.Module | None:
    """Multiply what the second of an MLP's two layers reads by ``self.gate(x)``."""
    for forward in methods(module, "forward", "MLP", "FeedForward"):
        x, layers = first_parameter(forward), linear_calls(module, forward)
        if x is None or len(layers) != 2 or has_name(owner_of(module, forward), "gate"):
            continue
        up, down = layers
        if not m.matches(up.call.args[0].value, m.Name(x)):
            continue
        changes: dict[cst.CSTNode, Change] = {
            up.made: after(copy_of(up.made, up.name, "gate")),
            body_of(forward)[0]: before(*parse_lines(module, f"gate = self.gate({x})")),
            down.call: lambda c: c.with_changes(args=[cst.Arg(times(c.args[0].value, "gate"))]),
        }
        for statement in initialisers(module, "mlp", up.name):
            changes[statement] = after(copy_of(statement, up.name, "gate"))
        return replace_nodes(module, changes)
    return None
