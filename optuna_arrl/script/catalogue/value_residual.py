"""The first layer's values mixed into every layer's (Zhou et al. 2024, arXiv 2410.17897)."""

from __future__ import annotations

import libcst as cst
import libcst.matchers as m

from ._patterns import after
from ._patterns import attention_forward
from ._patterns import before
from ._patterns import block_forward
from ._patterns import block_loop
from ._patterns import body_of
from ._patterns import find
from ._patterns import has_name
from ._patterns import parse_lines
from ._patterns import replace_nodes


_ATTEND = m.Call(
    func=m.Attribute(m.Name("self"), m.Name(m.MatchIfTrue(lambda text: "att" in text)))
)


def apply(module: cst.Module) -> cst.Module | None:
    """Hand a list from block to block, to which each attention appends its values ``v``."""
    attention, block, model = attention_forward(module), block_forward(module), block_loop(module)
    if attention is None or block is None or model is None:
        return None
    forward, loop, block_call = model
    if any(has_name(f, "values", "v1") for f in (attention, block, forward)):
        return None
    calls = [c for c in find(block, cst.Call) if m.matches(c, _ATTEND)]
    assigned = [s for s in body_of(attention) if _assigns(s, "v")]
    if len(calls) != 1 or not assigned:
        return None
    mix = parse_lines(module, "values.append(v)", "v = 0.5 * (v + values[0])")
    return replace_nodes(
        module,
        {
            attention.params: _with_values,
            block.params: _with_values,
            assigned[0]: after(*mix),
            calls[0]: _pass_values,
            block_call: _pass_values,
            loop: before(*parse_lines(module, "values = []")),
        },
    )


def _assigns(statement: cst.CSTNode, name: str) -> bool:
    assignments = (
        find(statement, cst.Assign) if isinstance(statement, cst.SimpleStatementLine) else []
    )
    return any(has_name(t.target, name) for a in assignments for t in a.targets)


def _with_values(parameters: cst.Parameters) -> cst.Parameters:
    # A parameter behind one with a default needs one too; it is always passed.
    optional = any(p.default is not None for p in parameters.params)
    values = cst.Param(cst.Name("values"), default=cst.Name("None") if optional else None)
    return parameters.with_changes(params=[*parameters.params, values])


def _pass_values(old: cst.Call) -> cst.Call:
    values = cst.Arg(
        cst.Name("values"),
        keyword=cst.Name("values"),
        equal=cst.AssignEqual(cst.SimpleWhitespace(""), cst.SimpleWhitespace("")),
    )
    return old.with_changes(args=[*old.args, values])
