"""What this machine is, and which process on it runs a trial."""

from __future__ import annotations

import functools
import glob
import hashlib
import os
from pathlib import Path
import platform
import socket
import subprocess
import sys
from typing import Any


__all__ = [
    "cuda_device_files",
    "default_profile",
    "device_model",
    "has_nvidia",
    "worker_is_gone",
    "worker_record",
]

# Asks the driver for name and PCI address of the first device that CUDA_VISIBLE_DEVICES leaves. In
# a process of its own: a process that has called cuInit must not fork CUDA users afterwards.
_ASK_DRIVER = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
failed = cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0)
if not (failed or cuda.cuDeviceGetName(name, 256, device)):
    print(name.value.decode())
    address = ctypes.create_string_buffer(64)
    if not cuda.cuDeviceGetPCIBusId(address, 64, device):
        print(address.value.decode())
"""
# Besides the device's own file.
_SHARED_DEVICE_FILES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset", "dxg")


def default_profile() -> str:
    """Return the name of the profile for this machine: ``"gpu"`` where it has an NVIDIA device."""
    return "gpu" if has_nvidia() else "cpu"


def has_nvidia() -> bool:
    """Tell whether an NVIDIA device is there for this process, without importing torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    # Containers may see /dev/nvidia3 alone; under WSL there is /dev/dxg and NVIDIA's library.
    return bool(glob.glob("/dev/nvidia[0-9]*")) or os.path.exists("/usr/lib/wsl/lib/libcuda.so.1")


def device_model(device: str) -> str:
    """Return the name of the processor or GPU that trials train on, without importing torch.

    Args:
        device:
            Torch device type, ``"cpu"`` or ``"cuda"``.

    Returns:
        The model's name as its driver or the kernel gives it; ``"unknown"`` when neither does.
    """
    return _gpu_model() if device == "cuda" else _cpu_model()


def worker_record() -> dict[str, Any]:
    """Describe this process so that another one can tell later whether it still lives.

    Returns:
        ``host`` and ``machine`` (which machine; the second is a hash of its machine id, because
        host names repeat), ``boot`` (which start of it), ``namespace`` (in which pids are
        counted), ``pid``, and ``started`` (clock ticks after boot: pids are used again).
    """
    return {
        "host": socket.gethostname(),
        "machine": hashlib.sha256(_read("/etc/machine-id").encode()).hexdigest()[:12],
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "namespace": os.stat("/proc/self/ns/pid").st_ino,
        "pid": os.getpid(),
        "started": _start_time(os.getpid()),
    }


def worker_is_gone(record: dict[str, Any]) -> bool:
    """Tell whether the process of a :func:`worker_record` ran on this machine and has ended.

    When in doubt it has not: a worker on another machine, or in a container whose processes this
    one cannot see, counts as living.
    """
    here = worker_record()
    if any(record.get(key) != here[key] for key in ("host", "machine")):
        return False
    if record.get("boot") != here["boot"]:
        return True
    if record.get("namespace") != here["namespace"]:
        return False
    return bool(_start_time(record["pid"]) != record["started"])


def _start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks after boot; None when it runs no more."""
    # The second field is the command in parentheses and may hold anything, parentheses too.
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if not fields or fields[0] in "ZX":  # a zombie only waits for its parent to notice
        return None
    return int(fields[19])


def _cpu_model() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"


@functools.cache
def cuda_device_files() -> tuple[tuple[str, ...], bool]:
    """Return the device files that the first CUDA device of this process needs.

    Returns:
        The files, and whether they are of this device only: then it is number 0 to whoever has no
        others. Where the driver does not say which file is whose, all devices' files.
    """
    shared = [f"/dev/{name}" for name in _SHARED_DEVICE_FILES]
    shared += sorted(glob.glob("/dev/nvidia-caps/*"))
    own = glob.glob("/dev/nvidia[0-9]*")
    one = False
    driver = _ask_driver()
    if len(driver) > 1 and "MIG" not in os.environ.get("CUDA_VISIBLE_DEVICES", ""):
        facts = _read(f"/proc/driver/nvidia/gpus/{driver[1].lower()}/information")
        minor = next(
            (line.split(":")[1].strip() for line in facts.splitlines() if "Minor" in line), None
        )
        if minor is not None and os.path.exists(f"/dev/nvidia{minor}"):
            own, one = [f"/dev/nvidia{minor}"], True
    return tuple(path for path in [*shared, *own] if os.path.exists(path)), one


def _gpu_model() -> str:
    return (_ask_driver() or ["unknown"])[0]


def _ask_driver() -> list[str]:
    try:
        answer = subprocess.run(
            [sys.executable, "-I", "-c", _ASK_DRIVER], capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.split("\n")[:-1]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
