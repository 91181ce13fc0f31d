"""The sizes and budgets that no edit may touch: one profile per kind of machine, one interface."""

from __future__ import annotations

from dataclasses import dataclass


__all__ = ["PROFILES", "Profile"]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What is held fixed for every trial of a study.

    Attributes:
        name:
            ``"cpu"`` or ``"gpu"``.
        device:
            Torch device type on which the edited script runs.
        vocab_size:
            Number of tokens, the document separator included.
        seq_len:
            Longest window, in tokens.
        budget_seconds:
            Seconds from the moment the launcher receives the edited source.
        max_epochs:
            The budget also ends when ``batches`` has served the training tokens this often.
        save_margin:
            Fraction of the budget that the clock inside the box keeps back for saving.
        eval_tokens:
            Validation tokens that are scored.
        probe_positions:
            Positions at which the score is compared with that of a truncated prefix; more where it
            would be the best of a study.
        threads:
            CPU threads of a box.
        paced:
            Budget seconds pass as reference work goes on the trial's core (one thread only).
        memory_bytes:
            Memory limit of a box's process tree.
        disk_bytes:
            Limit of the files that a box writes.
        start_seconds:
            Allowance for starting a box (importing torch), equal for all.
        score_seconds:
            Allowance for answering all validation windows, and again for the probe.
        repeat_noise:
            Standard deviation of the baseline's val_bpb over repeats, in bits per byte: measured
            for ``"cpu"`` (docs/LOG.md), a guess for ``"gpu"``.
    """

    name: str
    device: str
    vocab_size: int
    seq_len: int
    budget_seconds: float
    max_epochs: float
    save_margin: float
    eval_tokens: int
    probe_positions: int
    threads: int
    paced: bool
    memory_bytes: int
    disk_bytes: int
    start_seconds: float
    score_seconds: float
    repeat_noise: float


PROFILES = {
    "cpu": Profile(
        name="cpu",
        device="cpu",
        vocab_size=2048,
        seq_len=128,
        budget_seconds=12.0,
        max_epochs=4.0,
        save_margin=0.03,
        eval_tokens=49_152,
        probe_positions=256,
        threads=1,
        paced=True,
        memory_bytes=3 << 30,
        disk_bytes=1 << 30,
        start_seconds=60.0,
        score_seconds=30.0,
        repeat_noise=0.01,
    ),
    "gpu": Profile(
        name="gpu",
        device="cuda",
        vocab_size=8192,
        seq_len=2048,
        budget_seconds=300.0,
        max_epochs=4.0,
        save_margin=0.03,
        eval_tokens=131_072,
        probe_positions=256,
        threads=8,
        paced=False,
        memory_bytes=64 << 30,
        disk_bytes=16 << 30,
        start_seconds=180.0,
        score_seconds=180.0,
        repeat_noise=0.001,
    ),
}
