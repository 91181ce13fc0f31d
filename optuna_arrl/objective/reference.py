"""What a budget second is on this machine, measured once."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
import subprocess
import sys
import tempfile

from optuna_arrl.objective.boxes import MachineFault
from optuna_arrl.objective.machine import device_model


__all__ = ["machine_reference_seconds"]

_PACE = Path(__file__).with_name("_pace.py")


def machine_reference_seconds(folder: Path) -> float:
    """CPU seconds of a piece of reference work (``_pace.py``) on this machine.

    Measured once, which takes a few seconds, and kept, so that all studies here mean the same by a
    budget second.

    Args:
        folder:
            Where it is kept.

    Raises:
        MachineFault: It could not be measured.
    """
    path = folder / "pace.json"
    model = device_model("cpu")
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # not there, or not ours
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["processor"] == model and 0.0 < kept["reference_seconds"] < 1.0:
            return float(kept["reference_seconds"])
    command = [sys.executable, "-I", "-B", str(_PACE)]
    answer = subprocess.run(command, capture_output=True, text=True)
    try:
        seconds = float(answer.stdout)
    except ValueError:
        words = answer.stderr.strip().splitlines()[-1:] or ["no answer"]
        raise MachineFault(
            f"the speed of this machine could not be measured: {words[0]}"
        ) from None
    with contextlib.suppress(OSError):  # then it is measured again
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:
            json.dump({"processor": model, "reference_seconds": seconds}, file)
        Path(file.name).replace(path)
    return seconds
