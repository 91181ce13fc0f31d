"""Structural edits, each on or off as a slot. One edit a file; the order here is the order applied.

An edit's module has a one-line docstring that says what it does and where it comes from, and a
function ``apply(module)`` that returns the edited module, or :obj:`None` where the source does not
look like something it can improve or is so already. No edit looks at later tokens or at statistics
over positions or batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import libcst as cst

from . import gated_attention
from . import gated_mlp
from . import gelu
from . import no_qk_norm
from . import no_softcap
from . import normal_projections
from . import parallel_block
from . import sandwich_norm
from . import silu
from . import tied_embeddings
from . import token_shift
from . import unet_skips
from . import value_residual


__all__ = ["CATALOGUE", "StructuralEdit"]


@dataclass(frozen=True)
class StructuralEdit:
    """A switch of the catalogue.

    Attributes:
        name: Name of its slot, such as ``catalogue.tied_embeddings``.
        summary: What it does, and the paper.
        module: Where it is written.
    """

    name: str
    summary: str
    module: ModuleType

    def applies(self, source: cst.Module) -> bool:
        """Whether the source looks as if the edit had something to do there."""
        return self.module.apply(source) is not None

    def apply(self, source: cst.Module) -> cst.Module:
        """The edited module; the same one where the edit does not apply."""
        edited: cst.Module | None = self.module.apply(source)
        return source if edited is None else edited


def _edit(module: ModuleType) -> StructuralEdit:
    assert module.__doc__ is not None
    name = module.__name__.rpartition(".")[2]
    return StructuralEdit(f"catalogue.{name}", module.__doc__.partition("\n")[0], module)


CATALOGUE: tuple[StructuralEdit, ...] = tuple(
    _edit(module)
    for module in (
        gelu,
        silu,
        gated_mlp,
        sandwich_norm,
        parallel_block,
        no_qk_norm,
        value_residual,
        token_shift,
        gated_attention,
        unet_skips,
        normal_projections,
        tied_embeddings,
        no_softcap,
    )
)
