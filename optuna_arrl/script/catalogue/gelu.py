"""GELU in place of ReLU² (Hendrycks and Gimpel 2016, arXiv 1606.08415)."""

from __future__ import annotations

import libcst as cst

from ._patterns import replace_relu_squared


def apply(module: cst.Module) -> cst.Module | None:
    """Replace ``F.relu(h).square()`` by ``F.gelu(h)``."""
    return replace_relu_squared(module, "gelu")
