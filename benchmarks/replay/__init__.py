"""The autoresearch task as a surrogate of real trials: a millisecond, not five GPU minutes."""

from benchmarks.replay.surrogate import DEFAULT
from benchmarks.replay.surrogate import FAILURE_BPB
from benchmarks.replay.surrogate import load_surrogate
from benchmarks.replay.surrogate import snapped
from benchmarks.replay.surrogate import SPACE
from benchmarks.replay.surrogate import SURROGATE_FILE


__all__ = ["DEFAULT", "FAILURE_BPB", "SPACE", "SURROGATE_FILE", "load_surrogate", "snapped"]
