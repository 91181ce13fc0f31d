"""Runs attacks inside a box, without torch: `python -I -S -B _child.py CONTROL REPLY`.

It stands in the launcher's place. After the task each line that it reads names an attack, which
runs in a fork of its own: `attack(**aim)` of the file returns what it got hold of, and an OSError
says that it was refused. Attacks import their helpers from `child`, which is this file.
"""

from __future__ import annotations

from collections.abc import Callable
import ctypes
import json
import os
import platform
import resource
import runpy
import signal
import sys
import traceback
from typing import Any


ATTACK_SECONDS = 20  # processor time: nothing that is stuck outlives its test for long
_COLUMN = {"x86_64": 0, "aarch64": 1}.get(platform.machine(), 2)

libc = ctypes.CDLL(None, use_errno=True)
control, reply = map(int, sys.argv[1:3])


def system_call(numbers: tuple[int | None, ...], *arguments: Any) -> int:
    """Call the kernel by number: of x86_64, of aarch64. None: this machine has no such call."""
    number = numbers[_COLUMN] if _COLUMN < len(numbers) else None
    if number is None:
        raise NotImplementedError(f"no system call of this kind on {platform.machine()}")
    given = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return checked(libc.syscall(ctypes.c_long(number), *given))


def checked(result: int) -> int:
    """What a C function returned, unless it is -1."""
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def say(what: Any) -> None:
    """Tell the test."""
    os.write(reply, json.dumps({"says": what}).encode() + b"\n")


def hear() -> Any:
    """Wait for the test to answer."""
    return json.loads(_line())


def in_children(count: int, attack: Callable[[], Any]) -> None:
    """Let forks attack and stay; return when all have."""
    told, tell = os.pipe()
    for _ in range(count):
        if os.fork() == 0:
            attack()
            os.write(tell, b"x")
            hear()
    for _ in range(count):
        os.read(told, 1)


def any_of(*ways: Callable[[], Any]) -> Any:
    """What comes of the first way that is not refused."""
    refusal: OSError = FileNotFoundError("there is no way to try")
    for way in ways:
        try:
            return way()
        except OSError as error:
            refusal = error
    raise refusal


def _line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(control, 1)
        if not byte:
            os._exit(0)
        line += byte
    return line


def _run(source: str, aim: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"got": runpy.run_path(source)["attack"](**aim)}
    except OSError as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    except NotImplementedError as error:
        return {"refused": str(error)}
    except BaseException:
        return {"broken": traceback.format_exc()}


def _serve() -> None:
    while True:
        order = json.loads(_line())
        attacker = os.fork()
        if attacker == 0:
            resource.setrlimit(resource.RLIMIT_CPU, (ATTACK_SECONDS, ATTACK_SECONDS))
            answer = _run(order["source"], order["aim"])
            os.write(reply, json.dumps(answer).encode() + b"\n")
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(attacker, 0)[1])
        os.write(reply, json.dumps({"ended": status}).encode() + b"\n")


def main() -> None:
    sys.modules["child"] = sys.modules["__main__"]
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.write(reply, b'{"ready": true}\n')
    task = json.loads(_line())
    if "source" not in task:
        _serve()
    # Alone: the box ends when this attack does.
    os.write(reply, json.dumps(_run(task["source"], task["aim"])).encode() + b"\n")


if __name__ == "__main__":
    main()
