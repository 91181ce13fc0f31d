"""Half of attention's input is of the token before (RWKV: Peng et al. 2023, arXiv 2305.13048)."""

from __future__ import annotations

import libcst as cst

from ._patterns import attention_forward
from ._patterns import before
from ._patterns import body_of
from ._patterns import first_parameter
from ._patterns import has_name
from ._patterns import parse_lines
from ._patterns import replace_nodes


_SHIFT = """\
def shift_half(x):
    half = x.size(-1) // 2
    previous = F.pad(x[:, :-1, :half], (0, 0, 1, 0))
    return torch.cat((previous, x[:, :, half:]), dim=-1)
"""


def apply(module: cst.Module) -> cst.Module | None:
    """Shift the first half of the channels by one position as attention begins."""
    forward = attention_forward(module)
    if forward is None or has_name(module, "shift_half") or not has_name(module, "F"):
        return None
    x = first_parameter(forward)
    owner = next(s for s in module.body if isinstance(s, cst.ClassDef) and forward in s.body.body)
    (shift,) = parse_lines(module, _SHIFT)
    function = shift.with_changes(leading_lines=[cst.EmptyLine(indent=False)] * 2)
    return replace_nodes(
        module,
        {
            owner: before(function),
            body_of(forward)[0]: before(*parse_lines(module, f"{x} = shift_half({x})")),
        },
    )
