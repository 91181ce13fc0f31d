"""Structural edits, each on or off as a slot, one a file.

An edit's module says in its first line what it does and where it comes from. Its ``apply(module)``
returns the edited module, or :obj:`None` where the source does not look like something it could
edit, or is so already. No edit looks at later tokens or at statistics over positions or batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import libcst as cst

from .gated_attention import apply as gated_attention
from .gated_mlp import apply as gated_mlp
from .gelu import apply as gelu
from .no_qk_norm import apply as no_qk_norm
from .no_softcap import apply as no_softcap
from .normal_projections import apply as normal_projections
from .parallel_block import apply as parallel_block
from .sandwich_norm import apply as sandwich_norm
from .silu import apply as silu
from .tied_embeddings import apply as tied_embeddings
from .token_shift import apply as token_shift
from .unet_skips import apply as unet_skips
from .value_residual import apply as value_residual


__all__ = ["CATALOGUE", "StructuralEdit"]


@dataclass(frozen=True)
class StructuralEdit:
    """A switch of the catalogue.

    Attributes:
        name: Name of its slot, such as ``catalogue.tied_embeddings``.
        transform: The edited module, or :obj:`None` where it does not apply.
    """

    name: str
    transform: Callable[[cst.Module], cst.Module | None]

    def applies(self, module: cst.Module) -> bool:
        """Whether the source looks as if the edit had something to do there."""
        return self.transform(module) is not None

    def apply(self, module: cst.Module) -> cst.Module:
        """The edited module; the same one where the edit does not apply."""
        edited = self.transform(module)
        return module if edited is None else edited


# In the order in which they are applied.
CATALOGUE = (
    StructuralEdit("catalogue.gelu", gelu),
    StructuralEdit("catalogue.silu", silu),
    StructuralEdit("catalogue.gated_mlp", gated_mlp),
    StructuralEdit("catalogue.sandwich_norm", sandwich_norm),
    StructuralEdit("catalogue.parallel_block", parallel_block),
    StructuralEdit("catalogue.no_qk_norm", no_qk_norm),
    StructuralEdit("catalogue.value_residual", value_residual),
    StructuralEdit("catalogue.token_shift", token_shift),
    StructuralEdit("catalogue.gated_attention", gated_attention),
    StructuralEdit("catalogue.unet_skips", unet_skips),
    StructuralEdit("catalogue.normal_projections", normal_projections),
    StructuralEdit("catalogue.tied_embeddings", tied_embeddings),
    StructuralEdit("catalogue.no_softcap", no_softcap),
)
