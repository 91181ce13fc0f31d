"""SiLU in place of ReLU²; with `gated_mlp` SwiGLU (Ramachandran et al. 2017, arXiv 1710.05941)."""

from __future__ import annotations

import libcst as cst

from ._patterns import replace_relu_squared


def apply(module: cst.Module) -> cst.Module | None:
    """Replace ``F.relu(h).square()`` by ``F.silu(h)``."""
    return replace_relu_squared(module, "silu")
