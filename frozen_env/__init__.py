"""The frozen environment: what no edit may touch.

Inside a box an edited ``train.py`` may import from here:

- ``SEQ_LEN``, ``VOCAB_SIZE``, ``DEVICE``: the sizes it must keep to, and the torch device;
- ``batches(batch_size, length=SEQ_LEN)``: endless (inputs, targets), each (batch_size, length)
  int64 on ``DEVICE``;
- ``budget_used()``: fraction of the budget used, at least 1 when training must end;
- ``report(step, loss)``: the training loss in nats per token, for the learning curve.

Outside a box the same folder is ``optuna_arrl.frozen_env``, and its submodules make the data and
hold the evaluation protocol.
"""

from __future__ import annotations

from typing import Any


__all__ = ["DEVICE", "SEQ_LEN", "VOCAB_SIZE", "batches", "budget_used", "report"]


def __getattr__(name: str) -> Any:
    # Resolved on first use: the trusted side imports this package without a box around it.
    if name in __all__:
        from .session import current

        return getattr(current(), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
