"""U-net skips: late blocks add what early ones passed on (Bao et al. 2022, arXiv 2209.12152)."""

from __future__ import annotations

import libcst as cst

from ._patterns import block_loop
from ._patterns import find
from ._patterns import has_name
from ._patterns import parse_lines
from ._patterns import replace_nodes


def apply(module: cst.Module) -> cst.Module | None:
    """Push the stream after each block of the first half, pop it before one of the second."""
    model = block_loop(module)
    if model is None:
        return None
    forward, loop, block_call = model
    if has_name(forward, "skips", "skip_connections"):
        return None
    enumerated = isinstance(loop.iter, cst.Call)
    blocks = loop.iter.args[0].value if isinstance(loop.iter, cst.Call) else loop.iter
    layer = find(loop.target, cst.Name)[0].value if enumerated else "layer"
    count, x = f"len({module.code_for_node(blocks)})", module.code_for_node(block_call.args[0])
    x = x.rstrip(", ")

    def change(old: cst.For) -> cst.FlattenSentinel[cst.BaseStatement]:
        pop, push = parse_lines(
            module,
            f"if {layer} >= {count} - {count} // 2:\n    {x} = {x} + skips.pop()\n",
            f"if {layer} < {count} // 2:\n    skips.append({x})\n",
        )
        body = old.body.with_changes(body=[pop, *old.body.body, push])
        new = old.with_changes(body=body)
        if not enumerated:
            block = find(loop.target, cst.Name)[0].value
            header = cst.parse_statement(
                f"for {layer}, {block} in enumerate({module.code_for_node(blocks)}):\n    pass\n"
            )
            assert isinstance(header, cst.For)
            new = new.with_changes(target=header.target, iter=header.iter)
        return cst.FlattenSentinel([*parse_lines(module, "skips = []"), new])

    return replace_nodes(module, {loop: change})
