"""Trusted entry point of every box: runs first, loads torch, then the edited script.

    python -I launcher.py train CONTROL_FD REPLY_FD CURVE_FD [PACE_FD]
    python -I launcher.py answer CONTROL_FD REPLY_FD

``train`` reads one JSON line ``{"source", "start", "deadline", "seed"}``, calls ``build_model()``
and ``train(model)`` of the edited file and leaves ``model.safetensors`` in the working folder.
``answer`` reads ``{"source", "weights", "seed"}`` and then requests ``<IIB`` (B, T, last_only)
followed by B·T int32 tokens; each reply is ``<BQ`` (dtype, bytes) followed by the logits.
Exit codes: 0 done, 11 out of memory, 12 weights not finite, 1 anything else.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
from pathlib import Path
import struct
import sys
import traceback
from types import ModuleType
from typing import Any


# Under `python -I` nothing but the standard library and the environment's packages is importable;
# the folder that holds frozen_env/ is all that a box adds.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from safetensors.torch import load_model
from safetensors.torch import save_model
import torch

from frozen_env.clock import BudgetClock
from frozen_env.profiles import Profile
from frozen_env.session import open_session


EXIT_OUT_OF_MEMORY = 11
EXIT_NOT_FINITE = 12
_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


def main(
    mode: str,
    control_fd: int,
    reply_fd: int,
    curve_fd: int | None = None,
    pace_fd: int | None = None,
) -> int:
    profile = Profile(**json.loads(os.environ["ARRL_PROFILE"]))
    if profile.threads:
        torch.set_num_threads(profile.threads)
    # The other way to share tensors, for instance with workers that load data, hands open files
    # over, which no box may.
    torch.multiprocessing.set_sharing_strategy("file_system")  # type: ignore[no-untyped-call]
    if mode == "train":
        _warm_up(profile)
    # What is here now lives as long as the process: collections need not look at it.
    gc.collect()
    gc.freeze()
    _write_line(reply_fd, {"ready": True})
    order = json.loads(_read_line(control_fd))
    torch.manual_seed(order["seed"])
    try:
        if mode == "train":
            _train(profile, order, curve_fd, pace_fd)
        else:
            _answer(order, control_fd, reply_fd)
    except (MemoryError, torch.OutOfMemoryError):
        traceback.print_exc()
        return EXIT_OUT_OF_MEMORY
    except RuntimeError as e:
        traceback.print_exc()
        # What torch says on a CPU in place of OutOfMemoryError.
        return EXIT_OUT_OF_MEMORY if "can't allocate memory" in str(e) else 1
    except _NotFinite as e:
        print(e, file=sys.stderr)
        return EXIT_NOT_FINITE
    return 0


class _NotFinite(ValueError):
    pass


def _train(
    profile: Profile, order: dict[str, Any], curve_fd: int | None, pace_fd: int | None
) -> None:
    tokens = os.path.getsize(Path(os.environ["ARRL_DATA"]) / "train.bin") // 2
    clock = BudgetClock(
        order["start"],
        order["deadline"],
        profile.save_margin,
        profile.max_epochs * tokens,
        pace_fd,
    )
    session = open_session(clock, order["seed"], curve_fd)
    script = _load(order["source"])
    model = script.build_model()
    script.train(model)
    session.finish()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise _NotFinite(f"the trained weights are not finite: {name}")
    save_model(model, "model.safetensors")


def _answer(order: dict[str, Any], control_fd: int, reply_fd: int) -> None:
    session = open_session(None, order["seed"])
    model = _load(order["source"]).build_model()
    load_model(model, order["weights"])
    model.eval()
    _write_line(reply_fd, {"loaded": True})
    with torch.inference_mode():
        while header := _read(control_fd, struct.calcsize("<IIB"), end_allowed=True):
            rows, length, last_only = struct.unpack("<IIB", header)
            tokens = bytearray(_read(control_fd, 4 * rows * length))
            ids = torch.frombuffer(tokens, dtype=torch.int32).view(rows, length).long()
            logits = model(ids.to(session.DEVICE))
            if last_only:
                logits = logits[:, -1]
            if logits.dtype not in _DTYPES:
                logits = logits.float()
            data = logits.contiguous().cpu()
            payload = data.view(torch.uint8).numpy().reshape(-1)
            _write(reply_fd, struct.pack("<BQ", _DTYPES[data.dtype], payload.nbytes))
            _write(reply_fd, memoryview(payload))


def _load(source: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("train", source)
    if spec is None or spec.loader is None:
        raise ImportError(f"{source} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules["train"] = module
    spec.loader.exec_module(module)
    return module


def _warm_up(profile: Profile) -> None:
    # The first optimizer imports torch._dynamo (about a second), the first CUDA call makes the
    # context: neither is the edit's doing, so neither is charged to its budget.
    weight = torch.zeros(1, device=profile.device, requires_grad=True)
    torch.autograd.backward([weight.sum()])
    torch.optim.AdamW([weight]).step()


def _read(fd: int, count: int, *, end_allowed: bool = False) -> bytes:
    parts: list[bytes] = []
    while count:
        part = os.read(fd, min(count, 1 << 20))
        if not part:
            if end_allowed and not parts:
                return b""
            raise EOFError("the scorer has gone")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _read_line(fd: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += _read(fd, 1)
    return line


def _write(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view[: 1 << 20]) :]


def _write_line(fd: int, message: dict[str, Any]) -> None:
    _write(fd, json.dumps(message).encode("ascii") + b"\n")


if __name__ == "__main__":
    status = main(sys.argv[1], *(int(fd) for fd in sys.argv[2:]))
    # The work is done and its time is counted: no garbage collection, no atexit hooks.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
