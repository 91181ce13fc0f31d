"""A training script as data: literals as slots, edits as source."""

from .edits import normalised_hash
from .edits import Script
from .edits import unified_diff
from .ranges import InvalidScript
from .slots import Slot


__all__ = ["InvalidScript", "Script", "Slot", "normalised_hash", "unified_diff"]
