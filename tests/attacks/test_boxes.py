"""Child programs that try to leave a box, to use more than it was given, or to outlive it.

Each is tried without a sandbox, where it must succeed, and in one, where it must not; whether it
did is seen from outside. None of them needs torch: one box takes many, a fork each.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
from contextlib import AbstractContextManager
from contextlib import contextmanager
import ctypes
from dataclasses import dataclass
import fcntl
import functools
import json
import os
from pathlib import Path
import pty
import secrets
import select
import shutil
import signal
import site
import socket
import struct
import subprocess
import sys
import termios
import time
import tty
from typing import Any

import psutil
import pytest

from optuna_arrl.frozen_env.corpus import embedded_corpus_file
from optuna_arrl.frozen_env.prepare import Prepared
from optuna_arrl.objective._confine import landlock_abi
from optuna_arrl.objective.boxes import Limits
from optuna_arrl.objective.boxes import MachineFault
from optuna_arrl.objective.boxes import SupervisedBox
from optuna_arrl.objective.sandbox import Box
from optuna_arrl.objective.sandbox import box_environment
from optuna_arrl.objective.sandbox import Bubblewrap
from optuna_arrl.objective.sandbox import choose_sandbox
from optuna_arrl.objective.sandbox import Landlock
from optuna_arrl.objective.sandbox import PlainProcess
from optuna_arrl.objective.sandbox import Sandbox
from optuna_arrl.objective.sandbox import SandboxUnavailable


PROGRAMS = Path(__file__).with_name("programs")
CONFINE = Path(__file__).parents[2] / "optuna_arrl" / "objective" / "_confine.py"
SANDBOXES: dict[str, type[Sandbox]] = {
    kind.name: kind for kind in (PlainProcess, Bubblewrap, Landlock)
}
WAIT_SECONDS = 60.0  # for what has gone wrong: nothing here takes so long
KILLED_WITHIN = 1.0  # seconds, a whole tree
MIB = 1 << 20
HEAD = 64  # bytes of a file that say that it was read

libc = ctypes.CDLL(None, use_errno=True)


# --- boxes ---------------------------------------------------------------------------------------


@dataclass
class Answer:
    """What an attack came to, as it tells it."""

    got: Any = None
    refused: str = ""
    broken: str = ""
    status: int | None = None

    def __str__(self) -> str:
        return self.broken or self.refused or f"got {self.got!r}, exit status {self.status}"


class AttackBox:
    """A furnished box with the attacks in its inbox, and `_child.py` for a launcher.

    Attributes:
        data: A folder that it may read.
        outside: A folder that it may not.
    """

    def __init__(
        self,
        sandbox: str,
        folder: Path,
        prepared: Prepared,
        *,
        landlock_abi: int | None = None,
        confined_by: Callable[[list[str]], list[str]] = list,
        environment: Callable[[dict[str, str]], dict[str, str]] = dict,
        file_bytes: int = 1 << 30,
        cores: list[int] | None = None,
        **limits: Any,
    ) -> None:
        self.sandbox = sandbox
        self.folder = folder
        self.data, self.outside = folder / "data", folder / "outside"
        self.view, self.inbox, self.scratch = (folder / n for n in ("view", "inbox", "scratch"))
        for path in (self.data, self.outside, self.inbox, self.scratch, self.view / "frozen_env"):
            path.mkdir(parents=True)
        shutil.copytree(PROGRAMS, self.inbox, dirs_exist_ok=True)
        for name in ("train.py", "frozen_env/session.py"):
            ((self.inbox if name == "train.py" else self.view) / name).write_text("# as given\n")
        confine = CONFINE.read_text(encoding="utf-8")
        if landlock_abi is not None:
            assert confine.count("return max(0, int(version))") == 1
            confine = confine.replace("int(version)", f"min({landlock_abi}, int(version))")
        (self.view / CONFINE.name).write_text(confine, encoding="utf-8")
        box = Box(
            view=self.view,
            inbox=self.inbox,
            scratch=self.scratch,
            readable=(prepared.folder, self.data),
            hidden=prepared.secrets,
            file_bytes=file_bytes,
        )
        kind = SANDBOXES[sandbox]()
        program = [sys.executable, "-I", "-S", "-B", str(self.inbox / "_child.py")]
        fields = {"start_seconds": 60.0, "memory_bytes": 1 << 30, "disk_bytes": 1 << 30}
        self.supervised = SupervisedBox(
            lambda fds: confined_by(kind.command(box, [*program, *map(str, fds)])),
            environment=environment(
                box_environment(box, data=prepared.folder, profile_json="{}", threads=1)
            ),
            folder=self.scratch,
            limits=Limits(**(fields | limits)),
            signal_codes=kind.signal_codes,
            memory_folders=tuple(kind.memory_folders),
            cores=cores,
        )

    def __enter__(self) -> AttackBox:
        return self

    def __exit__(self, *_: object) -> None:
        self.supervised.end()

    def serve(self) -> None:
        """Have it wait for attacks."""
        self.supervised.hand_over({}, run_seconds=600.0)
        self.supervised.wait_until_handed_over()

    def run(self, program: str, run_seconds: float, /, **aim: Any) -> None:
        """Have it run one attack, and end when that does."""
        source = str(self.inbox / f"{program}.py")
        self.supervised.hand_over({"source": source, "aim": aim}, run_seconds=run_seconds)
        self.supervised.wait_until_handed_over()

    def answer(self, program: str, aim: dict[str, Any], meanwhile: Callable[[Any], Any]) -> Answer:
        """What an attack comes to that runs in a fork."""
        self.tell({"source": str(self.inbox / f"{program}.py"), "aim": aim})
        answer = Answer()
        while answer.status is None:
            line = self.line()
            assert line is not None, "the box has ended"
            if "says" in line:
                self.tell(meanwhile(line["says"]))
            elif "ended" in line:
                answer.status = line["ended"]
            else:
                answer = Answer(**line)
        return answer

    def tell(self, what: Any) -> None:
        os.write(self.supervised.control, json.dumps(what).encode() + b"\n")

    def line(self) -> Any:
        """The next that an attack says; :obj:`None` when nobody is left to say anything."""
        line = b""
        while not line.endswith(b"\n"):
            readable, _, _ = select.select([self.supervised.reply], [], [], WAIT_SECONDS)
            assert readable, "an attack neither ends nor answers"
            byte = os.read(self.supervised.reply, 1)
            if not byte:
                return None
            line += byte
        return json.loads(line)

    def wait_until_nobody_is_left(self) -> None:
        """Wait until no process is left that holds the box's end of the pipe."""
        while self.line() is not None:
            pass

    def supervisors(self) -> list[psutil.Process]:
        """The guard and the supervisor."""
        guard = psutil.Process(self.supervised._process.pid)
        return [guard, *guard.children()]

    def left(self) -> list[psutil.Process]:
        """Processes that have to do with this box."""
        return with_trace(self.folder)


def with_trace(folder: Path) -> list[psutil.Process]:
    """Processes that a folder has left a trace on, in whatever place."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error), process.oneshot():
            if process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
                continue
            places = [process.cwd(), process.exe(), *process.cmdline()]
            if any(str(folder) in place for place in (*places, *process.environ().values())):
                found.append(process)
    return found


def words_of(program: str) -> str:
    source = (PROGRAMS / f"{program}.py").read_text(encoding="utf-8")
    return " ".join((ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].split())


# --- what lies around a box ----------------------------------------------------------------------

# Holds the secret in its environment, its memory and an open file, and tells of signals.
VICTIM = """
import ctypes, json, os, signal, sys
ctypes.CDLL(None).prctl(0x59616d61, ctypes.c_ulong(-1), 0, 0, 0)  # whoever may, may trace it
secret = ctypes.create_string_buffer(os.environ[sys.argv[2]].encode())
fd = os.open(sys.argv[1], os.O_RDONLY)

# Waited for, not handled: a handler would be interrupted by the one that ends the process.
awaited = {signal.SIGUSR1, signal.SIGTERM}
signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
print(json.dumps({"address": ctypes.addressof(secret), "fd": fd}), flush=True)
while signal.sigwait(awaited) == signal.SIGUSR1:
    print(json.dumps({"signalled": True}), flush=True)
print(json.dumps({"memory": secret.value.decode()}), flush=True)
os._exit(0)
"""


class Outside:
    """What one attack may reach for."""

    def __init__(self, box: AttackBox, prepared: Prepared, top: Path) -> None:
        self.box = box
        self.prepared = prepared
        self.top = top
        self.word = secrets.token_hex(4)  # of eight letters: it fits into a word of memory
        self.number = secrets.randbelow(1 << 30)
        self.variable = f"ATTACK_{self.number}"
        # Anew for each attack: the one before may have got through. The folder itself is in view.
        for path in (*box.outside.iterdir(), *box.data.iterdir()):
            path.unlink()
        self.secret = box.outside / f"secret-{self.word}"
        self.secret.write_text(self.word)
        self.readable = box.data / f"data-{self.word}"
        self.readable.write_text("as it was")
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Outside:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    @functools.cached_property
    def victim(self) -> psutil.Process:
        """A process with the secret in its environment, its memory and an open file."""
        return psutil.Process(self._process.pid)

    @functools.cached_property
    def _process(self) -> subprocess.Popen[str]:
        arguments = [str(self.secret), self.variable, f"{self.variable}={self.word}"]
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", VICTIM, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={self.variable: self.word},
            start_new_session=True,
        )

        def end() -> None:
            process.kill()
            process.communicate()

        self._stack.callback(end)
        return process

    @functools.cached_property
    def told(self) -> dict[str, int]:
        """Address of the secret in the victim's memory, number of its open file."""
        assert self._process.stdout is not None
        told: dict[str, int] = json.loads(self._process.stdout.readline())
        return told

    def last_words(self) -> dict[str, Any]:
        """End the victim, and ask it for what has happened to it."""
        self._process.terminate()
        out, _ = self._process.communicate(timeout=WAIT_SECONDS)
        words: dict[str, Any] = {}
        for line in out.splitlines():
            words |= json.loads(line)
        return words

    def server(self, family: int, kind: int, address: Any) -> socket.socket:
        server = self._stack.enter_context(socket.socket(family, kind))
        server.setblocking(False)
        server.bind(address)
        if kind == socket.SOCK_STREAM:
            server.listen()
        return server

    def terminal(self) -> tuple[int, int, str]:
        """Both ends of a terminal, and its name."""
        ends = pty.openpty()
        for end in ends:
            self._stack.callback(os.close, end)
        tty.setraw(ends[1])
        return (*ends, os.ttyname(ends[1]))


@dataclass(frozen=True)
class Aim:
    """What an attack is given, and how to see from outside that it has succeeded.

    Attributes:
        given: Its arguments.
        reached: Told what it returned; whether it has succeeded.
        meanwhile: What it is answered when it says something.
    """

    given: dict[str, Any]
    reached: Callable[[Any], bool]
    meanwhile: Callable[[Any], Any] = lambda said: None


@dataclass(frozen=True)
class Attack:
    """An attack on what lies outside.

    Attributes:
        name: Of the program, and of what it reaches for if there is more than one such thing.
        aim: Sets it up.
        impossible: Why it may fail on some machines though nothing defends them.
    """

    name: str
    aim: Callable[[Outside], AbstractContextManager[Aim]]
    impossible: str = ""

    @property
    def program(self) -> str:
        return self.name.partition(" ")[0]


ROOT = "only root may do this anyway"
KERNEL = "this kernel or file system has nothing of the kind"
ATTACKS: dict[str, Attack] = {}


def attack(
    name: str, *, impossible: str = ""
) -> Callable[[Callable[[Outside], Any]], Callable[[Outside], Any]]:
    """Register an attack. The function makes its aim, or is a generator that yields it."""

    def register(aim: Callable[[Outside], Any]) -> Callable[[Outside], Any]:
        def as_generator(outside: Outside) -> Iterator[Aim]:
            made = aim(outside)
            if isinstance(made, Aim):
                yield made
            else:
                yield from made

        ATTACKS[name] = Attack(name, contextmanager(as_generator), impossible)
        return aim

    return register


def simple(*names: str, impossible: str = "") -> None:
    """Attacks that need nothing and tell themselves whether they succeed."""
    for name in names:
        attack(name, impossible=impossible)(lambda _: Aim({}, bool))


# --- files that are not listed -------------------------------------------------------------------


def finds(outside: Outside, **given: Any) -> Aim:
    """Succeeds by returning the secret file's content."""
    return Aim(given, lambda got: got == outside.word.encode().hex())


def head_of(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(HEAD).hex()


@attack("reads_by_path (validation tokens)")
def _(outside: Outside) -> Aim:
    path = outside.prepared.private / "val.bin"
    return Aim({"path": str(path)}, lambda got: got == head_of(path))


@attack("reads_by_path (corpus)")
def _(outside: Outside) -> Aim:
    path = embedded_corpus_file()
    return Aim({"path": str(path)}, lambda got: got == head_of(path))


@attack("imports_the_package")
def _(outside: Outside) -> Aim:
    return Aim({}, lambda got: got == head_of(embedded_corpus_file()))


@attack("searches_the_file_system")
def _(outside: Outside) -> Aim:
    return finds(outside, top=str(outside.top), name=outside.secret.name)


for _name in (
    "reads_by_path (any other file)",
    "follows_its_own_link",
    "links_a_file_into_scratch",
    "renames_a_file_into_scratch",
    "reopens_a_path_descriptor",
    "climbs_out_of_scratch",
):
    attack(_name)(lambda outside: finds(outside, path=str(outside.secret)))

attack("remembers_a_changed_root", impossible=ROOT)(
    lambda outside: finds(outside, path=str(outside.secret))
)


@attack("opens_below_a_path_descriptor")
def _(outside: Outside) -> Aim:
    return finds(outside, folder=str(outside.box.outside), name=outside.secret.name)


@attack("opens_by_file_handle", impossible=ROOT)
def _(outside: Outside) -> Aim:
    return finds(outside, path=str(outside.secret), folder=str(outside.box.data))


@attack("opens_by_root_of_a_process")
def _(outside: Outside) -> Aim:
    return finds(outside, path=str(outside.secret), pids=[1, outside.victim.pid])


# --- other processes -----------------------------------------------------------------------------


@attack("reads_environments")
def _(outside: Outside) -> Aim:
    assert outside.told
    return Aim({"variable": outside.variable}, lambda got: got == outside.word)


@attack(
    "reads_command_lines",
)
def _(outside: Outside) -> Aim:
    assert outside.told
    return Aim({"prefix": f"{outside.variable}="}, lambda got: got == outside.word)


for _name in ("opens_descriptors_of_a_process", "takes_a_descriptor_of_a_process"):
    attack(_name)(lambda outside: finds(outside, pid=outside.victim.pid, fd=outside.told["fd"]))


@attack("compares_descriptors", impossible=KERNEL)
def _(outside: Outside) -> Aim:
    return Aim({"pid": outside.victim.pid, "fd": outside.told["fd"]}, lambda got: got == 0)


for _name in ("reads_memory_by_proc", "reads_memory_by_call"):

    @attack(_name)
    def _(outside: Outside) -> Aim:
        where = {"address": outside.told["address"], "size": len(outside.word)}
        return Aim({"pid": outside.victim.pid, **where}, lambda got: got == outside.word)


@attack("traces_a_process")
def _(outside: Outside) -> Aim:
    where = {"pid": outside.victim.pid, "address": outside.told["address"]}
    return Aim(where, lambda got: got == outside.word)


@attack("writes_memory_by_call")
def _(outside: Outside) -> Aim:
    where = {"pid": outside.victim.pid, "address": outside.told["address"]}
    data = secrets.token_hex(4)
    return Aim({**where, "data": data}, lambda _: outside.last_words()["memory"] == data)


@attack(
    "overwrites_code_of_a_process",
)
def _(outside: Outside) -> Aim:
    first = [1] if outside.box.sandbox == "bubblewrap" else []  # the machine's own is let alone
    return Aim({"pids": [outside.victim.pid, *first]}, lambda got: got == HEAD)


@attack("advises_memory_of_a_process", impossible=ROOT)
def _(outside: Outside) -> Aim:
    where = {"pid": outside.victim.pid, "address": outside.told["address"]}
    return Aim(where, lambda got: got == 4096)


def signals(outside: Outside) -> Aim:
    assert outside.told
    return Aim({"pid": outside.victim.pid}, lambda _: "signalled" in outside.last_words())


for _name in (
    "signals_a_process",
    "signals_a_thread",
    "signals_a_group",
    "signals_by_pidfd",
    "signals_as_owner_of_a_socket",
):
    attack(_name)(signals)

attack("queues_a_signal")(signals)
attack("signals_as_owner_by_ioctl")(signals)


def is_stopped(process: psutil.Process) -> bool:
    """Whether it has been sent SIGSTOP, even if it has not come to a halt yet."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    entries = dict(line.split(":", 1) for line in status.splitlines())
    pending = int(entries["SigPnd"], 16) | int(entries["ShdPnd"], 16)
    return "T" in entries["State"].split()[0] or bool(pending >> (signal.SIGSTOP - 1) & 1)


@attack("stops_a_process")
def _(outside: Outside) -> Aim:
    assert outside.told
    return Aim({"pid": outside.victim.pid}, lambda _: is_stopped(outside.victim))


@attack("stops_its_supervisor")
def _(outside: Outside) -> Iterator[Aim]:
    supervisors = outside.box.supervisors()
    try:
        yield Aim(
            {},
            lambda _: any(map(is_stopped, supervisors)),
            lambda said: [process.pid for process in supervisors],
        )
    finally:
        for process in supervisors:
            process.resume()


@attack("limits_a_process")
def _(outside: Outside) -> Aim:
    assert outside.told
    return Aim(
        {"pid": outside.victim.pid},
        lambda _: outside.victim.rlimit(psutil.RLIMIT_NOFILE)[0] == 3,
    )


@attack("slows_a_process")
def _(outside: Outside) -> Aim:
    assert outside.told
    return Aim({"pid": outside.victim.pid}, lambda _: outside.victim.nice() == 19)


@attack("schedules_a_process")
def _(outside: Outside) -> Aim:
    assert outside.told
    pid = outside.victim.pid
    return Aim({"pid": pid}, lambda _: os.sched_getscheduler(pid) == os.SCHED_IDLE)


@attack("slows_the_disk_of_a_process")
def _(outside: Outside) -> Aim:
    assert outside.told
    return Aim(
        {"pid": outside.victim.pid},
        lambda _: outside.victim.ionice().ioclass == psutil.IOPRIO_CLASS_IDLE,
    )


ONE_CORE = "this machine has one core"


@attack("moves_a_process", impossible=ONE_CORE)
def _(outside: Outside) -> Aim:
    assert outside.told
    core = outside.victim.cpu_affinity()[-1]
    given = {"pid": outside.victim.pid, "core": core}
    many = len(outside.victim.cpu_affinity()) > 1
    return Aim(given, lambda _: many and outside.victim.cpu_affinity() == [core])


@attack("takes_more_cores", impossible=ONE_CORE)
def _(outside: Outside) -> Aim:
    cores = sorted(os.sched_getaffinity(0))
    return Aim({"cores": cores}, lambda got: bool(got) and len(got) > 1)


simple("takes_more_priority", impossible=ROOT)
simple("raises_its_own_limits")


# --- network -------------------------------------------------------------------------------------


def hears(server: socket.socket, word: str) -> bool:
    try:
        if server.type == socket.SOCK_STREAM:
            connection, _ = server.accept()
            with connection:
                return connection.recv(64) == word.encode()
        return server.recv(64) == word.encode()
    except BlockingIOError:
        return False


@attack("connects_by_tcp")
def _(outside: Outside) -> Aim:
    server = outside.server(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
    given = {"port": server.getsockname()[1], "word": outside.word}
    return Aim(given, lambda _: hears(server, outside.word))


@attack("sends_by_udp")
def _(outside: Outside) -> Aim:
    server = outside.server(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0))
    given = {"port": server.getsockname()[1], "word": outside.word}
    return Aim(given, lambda _: hears(server, outside.word))


@attack("connects_to_an_abstract_socket")
def _(outside: Outside) -> Aim:
    name = f"attack-{outside.word}"
    server = outside.server(socket.AF_UNIX, socket.SOCK_STREAM, f"\0{name}")
    return Aim({"name": name, "word": outside.word}, lambda _: hears(server, outside.word))


@attack("connects_to_a_socket_file")
def _(outside: Outside) -> Aim:
    path = str(outside.box.outside / "s")
    server = outside.server(socket.AF_UNIX, socket.SOCK_STREAM, path)
    return Aim({"path": path, "word": outside.word}, lambda _: hears(server, outside.word))


def datagram_servers(outside: Outside) -> tuple[list[socket.socket], list[str]]:
    addresses = [str(outside.box.outside / "s"), f"\0attack-{outside.word}"]
    kind = (socket.AF_UNIX, socket.SOCK_DGRAM)
    return [outside.server(*kind, address) for address in addresses], addresses


def sends_from_a_pair(outside: Outside) -> Aim:
    servers, addresses = datagram_servers(outside)
    return Aim(
        {"addresses": addresses, "word": outside.word},
        lambda _: any(hears(server, outside.word) for server in servers),
    )


attack("sends_from_a_datagram_pair")(sends_from_a_pair)
attack("sends_from_a_raw_pair")(sends_from_a_pair)


@attack("hands_out_a_descriptor")
def _(outside: Outside) -> Aim:
    servers, addresses = datagram_servers(outside)

    def receives(server: socket.socket) -> bool:
        try:
            _, fds, _, _ = socket.recv_fds(server, 1, 1)
        except BlockingIOError:
            return False
        with contextlib.ExitStack() as stack:
            for fd in fds:
                stack.callback(os.close, fd)
            return [os.read(fd, 64) for fd in fds] == [outside.word.encode()]

    return Aim(
        {"addresses": addresses, "word": outside.word},
        lambda _: any(receives(server) for server in servers),
    )


simple("asks_netlink")
simple("opens_a_packet_socket", impossible=ROOT)
simple("opens_a_socket_to_the_host", "opens_a_crypto_socket", impossible=KERNEL)


# --- the kernel, privileges, devices -------------------------------------------------------------

simple(
    "sets_up_io_uring",
    "handles_page_faults",
    "calls_in_32_bits",
    "takes_secret_memory",
    impossible=KERNEL,
)
simple("makes_a_bpf_map", "opens_performance_counters", "reads_the_kernel_log", impossible=ROOT)
simple("sets_the_host_name", "mounts_a_file_system", "mounts_by_the_newer_calls", impossible=ROOT)
simple("regains_capabilities", "makes_a_device", "opens_a_disk", impossible=ROOT)
simple("changes_its_personality")
simple(
    "unshares_a_user_namespace",
    "clones_into_a_user_namespace",
    "clones_by_the_newer_call",
    impossible="user namespaces are not for everybody on this machine",
)


@attack("enters_namespaces_of_a_process", impossible=ROOT)
def _(outside: Outside) -> Aim:
    return Aim({"pids": [outside.victim.pid, os.getpid(), 1]}, bool)


@attack("asks_a_terminal_without_rights")
def _(outside: Outside) -> Aim:
    _, end, name = outside.terminal()
    size = [outside.number >> 16, outside.number & 0xFFFF, 0, 0]
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("4H", *size))
    return Aim({"terminal": name}, lambda got: got == size)


@attack("types_into_a_terminal", impossible=ROOT)
def _(outside: Outside) -> Aim:
    _, end, name = outside.terminal()

    def is_typed(_: Any) -> bool:
        return bool(select.select([end], [], [], 0)[0]) and os.read(end, 1) == b"x"

    return Aim({"terminal": name, "letter": "x"}, is_typed)


@attack("writes_on_a_terminal")
def _(outside: Outside) -> Aim:
    end, _, name = outside.terminal()

    def is_written(_: Any) -> bool:
        return bool(select.select([end], [], [], 0)[0]) and outside.word.encode() in os.read(
            end, 64
        )

    return Aim({"terminal": name, "word": outside.word}, is_written)


@attack("opens_kernel_settings", impossible=ROOT)
def _(outside: Outside) -> Aim:
    names = ("kernel/core_pattern", "kernel/modprobe", "vm/overcommit_memory", "kernel/hostname")
    return Aim({"paths": [f"/proc/sys/{name}" for name in names]}, bool)


@attack("opens_kernel_settings (of devices)", impossible=ROOT)
def _(outside: Outside) -> Aim:
    names = ("kernel/mm/transparent_hugepage/enabled", "power/state", "fs/cgroup/cgroup.procs")
    return Aim({"paths": [f"/sys/{name}" for name in names]}, bool)


@attack("opens_kernel_settings (of a process)")
def _(outside: Outside) -> Aim:
    names = ("oom_score_adj", "coredump_filter", "clear_refs", "comm")
    return Aim({"paths": [f"/proc/{outside.victim.pid}/{name}" for name in names]}, bool)


# --- writing -------------------------------------------------------------------------------------


def writes(outside: Outside, path: Path) -> Aim:
    text = f"{outside.word}\n"
    return Aim({"path": str(path), "text": text}, lambda _: path.read_text().startswith(text))


attack("writes_its_own_source")(lambda outside: writes(outside, outside.box.inbox / "train.py"))
for _name in ("overwrites_a_file", "replaces_a_file"):
    attack(f"{_name} (frozen environment)")(
        lambda outside: writes(outside, outside.box.view / "frozen_env" / "session.py")
    )
    attack(f"{_name} (training data)")(lambda outside: writes(outside, outside.readable))
    attack(f"{_name} (out of sight)")(lambda outside: writes(outside, outside.secret))


@attack("removes_a_file")
def _(outside: Outside) -> Aim:
    return Aim({"path": str(outside.readable)}, lambda _: not outside.readable.exists())


for _name in ("sitecustomize.py", "added.pth", "torch.py", "torch.pyc"):

    @attack(f"adds_a_module ({_name})")
    def _(outside: Outside, name: str = _name) -> Aim:
        given = {"folder": str(outside.box.data), "name": name, "text": "raise SystemExit\n"}
        return Aim(given, lambda _: os.path.lexists(outside.box.data / name))


@attack("writes_to_folders_of_the_system", impossible=KERNEL)
def _(outside: Outside) -> Aim:
    folders = ["/", "/etc", "/usr", "/usr/bin", "/var", str(Path.home()), sys.prefix]
    return Aim({"folders": [*folders, sys.base_prefix, *site.getsitepackages()]}, bool)


def empties(outside: Outside) -> Aim:
    return Aim({"path": str(outside.readable)}, lambda _: not outside.readable.stat().st_size)


attack("truncates_a_file")(empties)
attack("truncates_without_rights")(empties)


@attack("changes_a_mode")
def _(outside: Outside) -> Aim:
    path = outside.readable
    return Aim({"path": str(path)}, lambda _: path.stat().st_mode & 0o777 == 0)


@attack("changes_times")
def _(outside: Outside) -> Aim:
    path = outside.readable
    return Aim({"path": str(path)}, lambda _: path.stat().st_mtime == 1)


@attack("changes_an_owner", impossible=ROOT)
def _(outside: Outside) -> Aim:
    path, group = outside.readable, os.getgid() + 1
    return Aim({"path": str(path), "group": group}, lambda _: path.stat().st_gid == group)


@attack("sets_an_attribute", impossible=KERNEL)
def _(outside: Outside) -> Aim:
    path, name = outside.readable, "user.attack"
    given = {"path": str(path), "name": name, "word": outside.word}
    return Aim(given, lambda _: name in os.listxattr(path))


def asks_file(path: Path, request: int, size: int) -> int:
    with path.open("rb") as file:
        return int.from_bytes(fcntl.ioctl(file, request, bytes(size))[:4], sys.byteorder)


@attack("sets_file_flags", impossible=KERNEL)
def _(outside: Outside) -> Aim:
    path, get_flags, no_dump = outside.readable, 0x80086601, 0x40
    return Aim({"path": str(path)}, lambda _: bool(asks_file(path, get_flags, 8) & no_dump))


@attack("sets_a_file_version", impossible=KERNEL)
def _(outside: Outside) -> Aim:
    path, get_version, number = outside.readable, 0x80087601, outside.number
    given = {"path": str(path), "number": number}
    return Aim(given, lambda _: asks_file(path, get_version, 8) == number)


@attack("takes_a_lease")
def _(outside: Outside) -> Aim:
    has_to_wait = []

    def open_it(_: Any) -> None:
        try:
            os.close(os.open(outside.readable, os.O_RDWR | os.O_NONBLOCK))
        except BlockingIOError:
            has_to_wait.append(True)

    return Aim({"path": str(outside.readable)}, lambda _: bool(has_to_wait), open_it)


@attack("locks_a_file")
def _(outside: Outside) -> Aim:
    has_to_wait = []
    path = outside.box.outside / "trains-0"  # as in optuna_arrl.objective.cores
    path.touch()

    def lock_it(_: Any) -> None:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                has_to_wait.append(True)

    return Aim({"path": str(path)}, lambda _: bool(has_to_wait), lock_it)


@attack("watches_a_file")
def _(outside: Outside) -> Aim:
    return Aim(
        {"path": str(outside.readable)},
        lambda got: got is True,
        lambda said: outside.readable.read_bytes() and None,
    )


# --- what stays when a box has ended -------------------------------------------------------------


@attack("leaves_a_file")
def _(outside: Outside) -> Iterator[Aim]:
    folders = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), outside.box.outside)
    paths = [folder / f"attack-{outside.word}" for folder in folders]
    try:
        yield Aim(
            {"paths": list(map(str, paths)), "word": outside.word},
            lambda _: any(path.exists() for path in paths),
        )
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


_IPC_CREAT, _IPC_RMID, _IPC_NOWAIT = 0o1000, 0, 0o4000


@attack("leaves_shared_memory", impossible=KERNEL)
def _(outside: Outside) -> Iterator[Aim]:
    try:
        yield Aim({"key": outside.number}, lambda _: libc.shmget(outside.number, 0, 0) >= 0)
    finally:
        libc.shmctl(libc.shmget(outside.number, 0, 0), _IPC_RMID, None)


@attack("leaves_a_semaphore", impossible=KERNEL)
def _(outside: Outside) -> Iterator[Aim]:
    try:
        yield Aim({"key": outside.number}, lambda _: libc.semget(outside.number, 0, 0) >= 0)
    finally:
        libc.semctl(libc.semget(outside.number, 0, 0), 0, _IPC_RMID)


@attack("leaves_a_message_queue", impossible=KERNEL)
def _(outside: Outside) -> Iterator[Aim]:
    try:
        yield Aim({"key": outside.number}, lambda _: libc.msgget(outside.number, 0) >= 0)
    finally:
        libc.msgctl(libc.msgget(outside.number, 0), _IPC_RMID, None)


@attack("leaves_a_posix_queue", impossible=KERNEL)
def _(outside: Outside) -> Iterator[Aim]:
    name = f"attack-{outside.word}"
    # Removing it tells whether it was there.
    try:
        yield Aim({"name": name}, lambda _: libc.mq_unlink(f"/{name}".encode()) == 0)
    finally:
        libc.mq_unlink(f"/{name}".encode())


@attack("leaves_a_key", impossible=KERNEL)
def _(outside: Outside) -> Iterator[Aim]:
    name = f"attack-{outside.word}"
    search, unlink, ring = 10, 9, -4

    def call(operation: int, *arguments: Any) -> int:
        number = ctypes.c_long({"x86_64": 250, "aarch64": 219}[os.uname().machine])
        return int(libc.syscall(number, operation, *arguments))

    def key() -> int:
        return call(search, ring, b"user", name.encode(), 0)

    try:
        yield Aim({"name": name, "word": outside.word}, lambda _: key() > 0)
    finally:
        if key() > 0:
            call(unlink, key(), ring)


@attack("writes_to_a_message_queue", impossible=KERNEL)
def _(outside: Outside) -> Iterator[Aim]:
    queue = libc.msgget(0, _IPC_CREAT | 0o600)
    buffer = ctypes.create_string_buffer(72)
    try:
        yield Aim(
            {"number": queue, "word": outside.word},
            lambda _: libc.msgrcv(queue, buffer, 64, 0, _IPC_NOWAIT) == len(outside.word),
        )
    finally:
        libc.msgctl(queue, _IPC_RMID, None)


@attack("sets_a_semaphore", impossible=KERNEL)
def _(outside: Outside) -> Iterator[Aim]:
    semaphore, get_value, value = libc.semget(0, 1, _IPC_CREAT | 0o600), 12, 7
    given = {"number": semaphore, "value": value}
    try:
        yield Aim(given, lambda _: libc.semctl(semaphore, 0, get_value) == value)
    finally:
        libc.semctl(semaphore, 0, _IPC_RMID)


@contextmanager
def shared_memory(word: str) -> Iterator[int]:
    number = libc.shmget(0, 4096, _IPC_CREAT | 0o600)
    libc.shmat.restype = ctypes.c_void_p
    address = libc.shmat(number, None, 0)
    ctypes.memmove(address, word.encode(), len(word))
    try:
        yield number
    finally:
        libc.shmdt(ctypes.c_void_p(address))
        libc.shmctl(number, _IPC_RMID, None)


@attack("attaches_shared_memory", impossible=KERNEL)
def _(outside: Outside) -> Iterator[Aim]:
    with shared_memory(outside.word) as number:
        yield Aim({"number": number, "size": len(outside.word)}, lambda got: got == outside.word)


@attack("removes_shared_memory", impossible=KERNEL)
def _(outside: Outside) -> Iterator[Aim]:
    removed = 0o1000  # SHM_DEST of the mode, at this place in struct shmid_ds
    with shared_memory(outside.word) as number:

        def is_removed(_: Any) -> bool:
            status = ctypes.create_string_buffer(512)
            assert libc.shmctl(number, 2, status) == 0
            return bool(int.from_bytes(status.raw[20:22], sys.byteorder) & removed)

        yield Aim({"number": number}, is_removed)


@attack("removes_a_posix_queue", impossible=KERNEL)
def _(outside: Outside) -> Iterator[Aim]:
    name = f"attack-{outside.word}"
    flags = os.O_CREAT | os.O_RDWR
    queue = libc.mq_open(f"/{name}".encode(), flags, 0o600, None)
    try:
        yield Aim({"name": name}, lambda _: libc.mq_unlink(f"/{name}".encode()) != 0)
    finally:
        libc.mq_close(queue)
        libc.mq_unlink(f"/{name}".encode())


# --- the tests of these --------------------------------------------------------------------------


def tried(attack: Attack, box: AttackBox, prepared: Prepared, top: Path) -> tuple[bool, str]:
    """Whether an attack has succeeded, and what it says itself."""
    with Outside(box, prepared, top) as outside, attack.aim(outside) as aim:
        answer = box.answer(attack.program, aim.given, aim.meanwhile)
        return aim.reached(answer.got), str(answer)


Try = Callable[[Attack], tuple[bool, str]]


@pytest.fixture(scope="session")
def first_core() -> list[int]:
    return sorted(os.sched_getaffinity(0))[:1]


@pytest.fixture(scope="module")
def undefended(
    prepared: Prepared, tmp_path_factory: pytest.TempPathFactory, first_core: list[int]
) -> Iterator[Try]:
    """Try an attack without a sandbox, once; skips if even that fails on this machine."""
    top = tmp_path_factory.getbasetemp()
    with AttackBox("none", tmp_path_factory.mktemp("none"), prepared, cores=first_core) as box:
        box.serve()
        seen: dict[str, tuple[bool, str]] = {}

        def do(attack: Attack) -> tuple[bool, str]:
            if attack.name not in seen:
                seen[attack.name] = tried(attack, box, prepared, top)
            succeeded, words = seen[attack.name]
            if attack.impossible and not succeeded:
                pytest.skip(f"{attack.impossible} ({words})")
            return succeeded, words

        yield do


@pytest.fixture(scope="module")
def isolated_box(
    isolating: str,
    prepared: Prepared,
    tmp_path_factory: pytest.TempPathFactory,
    first_core: list[int],
) -> Iterator[AttackBox]:
    folder = tmp_path_factory.mktemp(isolating)
    with AttackBox(isolating, folder, prepared, cores=first_core) as box:
        box.serve()
        yield box


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=lambda attack: attack.name)
def test_attack_reaches_nothing_outside_its_box(
    attack: Attack,
    isolating: str,
    isolated_box: AttackBox,
    undefended: Try,
    prepared: Prepared,
    tmp_path_factory: pytest.TempPathFactory,
    record: Any,
) -> None:
    succeeded, words = undefended(attack)
    assert succeeded, f"it fails without a sandbox too: {words}"
    succeeded, words = tried(attack, isolated_box, prepared, tmp_path_factory.getbasetemp())
    record(
        attack.name,
        tries=words_of(attack.program),
        undefended="succeeds",
        defended=f"{isolating}: {'succeeds' if succeeded else 'fails'}",
    )
    assert not succeeded, f"{attack.name} in {isolating}: {words}"


# What the filter of system calls adds is decided by these versions: 3 and 6.
OLDER_LANDLOCK = [1, *(pytest.param(abi, marks=pytest.mark.slow) for abi in range(2, 7))]


@pytest.mark.parametrize("abi", OLDER_LANDLOCK)
def test_attacks_reach_nothing_where_landlock_is_older(
    abi: int,
    undefended: Try,
    prepared: Prepared,
    tmp_path_factory: pytest.TempPathFactory,
    first_core: list[int],
) -> None:
    """What an older kernel leaves open the system call filter has to close."""
    if landlock_abi() < abi:
        pytest.skip(f"Landlock of this kernel is older than version {abi}")
    through = set()
    folder, top = tmp_path_factory.mktemp("older"), tmp_path_factory.getbasetemp()
    box = AttackBox("landlock", folder, prepared, cores=first_core, landlock_abi=abi)
    with box:
        box.serve()
        for name, attack in ATTACKS.items():
            try:
                succeeded, words = undefended(attack)
            except pytest.skip.Exception:
                continue
            assert succeeded, f"{name} fails without a sandbox too: {words}"
            if tried(attack, box, prepared, top)[0]:
                through.add(name)
    assert not through


# --- privileges and variables that are inherited -------------------------------------------------

# Started in front of a box's command.
WITH_INHERITABLE_CAPABILITIES = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
header, data = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0)), (ctypes.c_uint * 6)()
assert libc.capget(header, data) == 0
data[2], data[5] = data[1], data[4]
assert libc.capset(header, data) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""
WITHOUT_SETPCAP = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_SETPCAP = 24, 8
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(PR_CAPBSET_DROP, CAP_SETPCAP, 0, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (WITH_INHERITABLE_CAPABILITIES, "inheritable capabilities"),
        (WITHOUT_SETPCAP, "no right to give capabilities up"),
    ],
    ids=["inheritable", "without CAP_SETPCAP"],
)
def test_capabilities_of_its_parent_are_lost(
    program: str,
    words: str,
    isolating: str,
    prepared: Prepared,
    tmp_path: Path,
    record: Any,
    request: pytest.FixtureRequest,
) -> None:
    """As in a container whose root has some of the machine's powers and not all."""
    if os.getuid() != 0:
        pytest.skip("only root has capabilities to lose")
    keeps = {}
    for sandbox in ("none", isolating):
        box = AttackBox(
            sandbox,
            tmp_path / sandbox,
            prepared,
            confined_by=lambda command: [sys.executable, "-I", "-c", program, *command],
        )
        with box:
            box.run("regains_capabilities", 60.0)
            keeps[sandbox] = box.line()["got"]
    assert keeps["none"]
    record(
        f"regains_capabilities ({words})",
        tries=words_of("regains_capabilities"),
        undefended="succeeds",
        defended=f"{isolating}: {'succeeds' if keeps[isolating] else 'fails'}",
    )
    assert not keeps[isolating], f"root of {words} keeps what it has in {isolating}"


def test_variables_of_the_study_are_not_in_its_environment(
    isolating: str,
    prepared: Prepared,
    tmp_path: Path,
    record: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("LD_AUDIT", "PYTHONPATH", "PYTHONSTARTUP", "HTTP_PROXY", "API_TOKEN")
    for name in names:
        monkeypatch.setenv(name, "of the study")
    found = {}
    for what, given in (("all", lambda kept: {**os.environ, **kept}), ("allowed", dict)):
        box = AttackBox(isolating, tmp_path / what, prepared, environment=given)
        with box:
            box.serve()
            ask = functools.partial(box.answer, "reads_its_environment", meanwhile=lambda _: None)
            found[what] = [name for name in names if ask({"variable": name}).got is not None]
    assert found["all"] == list(names)
    assert found["allowed"] == []
    record(
        "reads_its_environment",
        tries=words_of("reads_its_environment"),
        undefended="finds it, had the box the environment of the study",
        defended=f"{isolating}: finds nothing",
    )


# --- limits --------------------------------------------------------------------------------------

DONE = {"says": "done"}


@dataclass(frozen=True)
class Limit:
    """An attack on a limit: it says that it is done, if it gets so far, and waits.

    Attributes:
        program: Its name.
        aim: Its arguments.
        reason: The word that its end is recorded under.
        limits: What it is held to.
        may_be_refused: The kernel may refuse it first, so that nothing is over the limit.
    """

    program: str
    aim: dict[str, Any]
    reason: str
    limits: dict[str, Any]
    may_be_refused: bool = False


def memory(program: str) -> Limit:
    return Limit(program, {"mebibytes": 240}, "memory", {"memory_bytes": 120 * MIB})


def disk(program: str, *, may_be_refused: bool = False) -> Limit:
    limits = {"disk_bytes": 20 * MIB}
    return Limit(program, {"mebibytes": 40}, "disk", limits, may_be_refused)


LIMITS = [
    memory("takes_memory"),
    memory("takes_memory_with_children"),
    memory("takes_memory_without_a_mapping"),
    memory("takes_shared_memory"),
    memory("takes_memory_behind_a_dead_thread"),
    disk("fills_the_disk"),
    disk("fills_the_disk_with_small_files"),
    disk("fills_the_disk_without_names"),
    disk("fills_the_disk_through_a_mapping"),
    disk("fills_the_disk_inside_a_socket", may_be_refused=True),
    Limit("bombs_with_forks", {"count": 200}, "processes", {"processes": 20}),
    Limit("bombs_with_threads", {"count": 600}, "processes", {"processes": 20}),
    Limit("has_a_name_that_breaks_lines", {"threads": 60}, "processes", {"processes": 20}),
    Limit(
        "maps_more_than_can_be_read",
        {"children": 6, "mappings": 30_000},
        "memory",
        {"mappings": 100_000},
    ),
    Limit(
        "opens_more_than_can_be_read",
        {"children": 60, "descriptors": 1000},
        "memory",
        {"descriptors": 20_000},
    ),
    memory("fills_sockets"),
    Limit("floods_its_log", {"mebibytes": 40}, "log", {"flood_bytes": 20 * MIB}),
    Limit("ignores_signals", {}, "deadline", {}),
    Limit("hangs_at_exit", {}, "deadline", {}),
]
GENEROUS = {
    "memory_bytes": 4 << 30,
    "disk_bytes": 4 << 30,
    "processes": 1000,
    "mappings": 1 << 30,
    "descriptors": 1 << 30,
    "files": 1 << 30,
    "flood_bytes": 4 << 30,
}


@pytest.fixture(scope="module")
def is_done_without_limits(
    prepared: Prepared, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Limit], bool]:
    """Try an attack without a sandbox and without limits, once."""
    seen: dict[str, bool] = {}

    def is_done(limit: Limit) -> bool:
        if limit.program not in seen:
            folder = tmp_path_factory.mktemp("generous")
            with AttackBox("none", folder, prepared, **GENEROUS) as box:
                box.run(limit.program, 600.0, **limit.aim)
                seen[limit.program] = DONE in iter(box.line, None)
            assert not box.left()
        return seen[limit.program]

    return is_done


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.program)
def test_limit_ends_a_box_and_nothing_is_left_of_it(
    limit: Limit,
    isolating: str,
    is_done_without_limits: Callable[[Limit], bool],
    prepared: Prepared,
    tmp_path: Path,
    record: Any,
) -> None:
    assert is_done_without_limits(limit), "it is not done, though it has no limits"
    # The deadline is for attacks that have no other limit.
    seconds = 0.5 if limit.reason == "deadline" else 60.0
    with AttackBox(isolating, tmp_path / "held", prepared, **(GENEROUS | limit.limits)) as box:
        box.run(limit.program, seconds, **limit.aim)
        said = list(iter(box.line, None))  # until nobody is left to say anything
        box.supervised.wait_until_ended()
        report = box.supervised.report()
    assert not box.left()
    refused = "refused" in said[-1] if said else False
    record(
        limit.program,
        tries=words_of(limit.program),
        undefended="goes on",
        defended=f"{isolating}: {'fails' if refused else f'ended ({report.reason})'}",
    )
    assert report.reason == limit.reason or (refused and limit.may_be_refused)
    assert len(report.log) < 1 * MIB


@pytest.mark.slow
def test_folder_that_cannot_be_listed_ends_a_box(
    isolating: str, prepared: Prepared, tmp_path: Path, record: Any
) -> None:
    """Root could list it, so it is tried with a supervisor that is root and may not."""
    limit = disk("fills_the_disk_out_of_sight")
    ends, end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            drop_bounding, override, read_search = 24, 1, 2
            for capability in (override, read_search):
                libc.prctl(drop_bounding, capability, 0, 0, 0)
            for name, limits in (("generous", {}), ("held", limit.limits)):
                box = AttackBox(isolating, tmp_path / name, prepared, **(GENEROUS | limits))
                with box:
                    box.run(limit.program, 60.0, **limit.aim)
                    done = DONE in iter(box.line, None)
                    if name == "held":
                        box.supervised.wait_until_ended()
                        os.write(end, box.supervised.report().reason.encode())
                    else:
                        assert done
        finally:
            os._exit(0)
    os.close(end)
    os.waitpid(child, 0)
    reason = os.read(ends, 64).decode()
    os.close(ends)
    assert not with_trace(tmp_path)
    record(
        limit.program,
        tries=words_of(limit.program),
        undefended="goes on",
        defended=f"{isolating}: ended ({reason})",
    )
    assert reason == "disk"


def test_memory_in_the_device_folder_is_limited(
    prepared: Prepared, tmp_path: Path, record: Any
) -> None:
    try:
        choose_sandbox("bubblewrap", secrets=(), readable=prepared.folder)
    except SandboxUnavailable as error:
        pytest.skip(f"only a box of namespaces has a folder of devices of its own: {error}")
    limit = memory("takes_memory_in_a_device_folder")
    guard = ["--remount-ro", "/dev"]

    def without_guard(command: list[str]) -> list[str]:
        at = next(n for n in range(len(command)) if command[n : n + 2] == guard)
        return command[:at] + command[at + 2 :]

    kinds: dict[str, Callable[[list[str]], list[str]]] = {"off": without_guard, "on": list}
    answers = {}
    for name, confined_by in kinds.items():
        folder = tmp_path / name
        box = AttackBox("bubblewrap", folder, prepared, confined_by=confined_by, **GENEROUS)
        with box:
            box.run(limit.program, 60.0, **limit.aim)
            answers[name] = box.line()
        assert not box.left()
    assert answers["off"] == DONE
    assert "Read-only file system" in answers["on"]["refused"]
    record(
        limit.program,
        tries=words_of(limit.program),
        undefended="succeeds",
        defended="bubblewrap: fails",
    )


@pytest.mark.parametrize("folder", Bubblewrap.memory_folders)
def test_files_in_a_folder_in_memory_are_limited_in_number(
    folder: str, prepared: Prepared, tmp_path: Path, record: Any
) -> None:
    try:
        choose_sandbox("bubblewrap", secrets=(), readable=prepared.folder)
    except SandboxUnavailable as error:
        pytest.skip(f"only a box of namespaces has folders in memory of its own: {error}")
    program, reason = "fills_memory_with_empty_files", None
    for files in (GENEROUS["files"], 10_000):
        box = AttackBox(
            "bubblewrap", tmp_path / str(files), prepared, **(GENEROUS | {"files": files})
        )
        with box:
            box.run(program, 60.0, folder=folder, count=20_000)
            done = DONE in iter(box.line, None)
            if files == 10_000:
                box.supervised.wait_until_ended()
                reason = box.supervised.report().reason
            else:
                assert done
        assert not box.left()
    assert reason == "disk"
    record(
        f"{program} ({folder})",
        tries=words_of(program),
        undefended="goes on",
        defended="bubblewrap: ended (disk)",
    )


def test_no_file_is_larger_than_the_disk_that_was_given(
    isolating: str, prepared: Prepared, tmp_path: Path, record: Any
) -> None:
    name, size, answers = "makes_a_huge_hole", 1 << 40, {}
    for sandbox in ("none", isolating):
        box = AttackBox(sandbox, tmp_path / sandbox, prepared, file_bytes=20 * MIB)
        with box:
            box.run(name, 60.0, size=size)
            answers[sandbox] = box.line()
    assert answers["none"] == DONE
    assert "File too large" in answers[isolating]["refused"]
    record(
        name,
        tries=words_of(name),
        undefended="succeeds",
        defended=f"{isolating}: fails",
    )


# --- what outlives a box -------------------------------------------------------------------------


@contextmanager
def unsupervised(program: str, folder: Path, **aim: Any) -> Iterator[tuple[int, int]]:
    """Run an attack without a box and without a supervisor, below a process that waits for it.

    Yields the number of that process, and the end of a pipe that what the attack starts holds.
    """
    shutil.copytree(PROGRAMS, folder, dirs_exist_ok=True)
    control_read, control = os.pipe()
    reply, reply_write = os.pipe()
    parent = "import subprocess, sys; subprocess.run(sys.argv[1:], close_fds=False)"
    child = [sys.executable, "-I", "-S", "-B", str(folder / "_child.py")]
    task = {"source": str(folder / f"{program}.py"), "aim": aim}
    os.write(control, json.dumps(task).encode() + b"\n")
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", parent, *child, str(control_read), str(reply_write)],
        pass_fds=(control_read, reply_write),
        cwd=folder,
    )
    os.close(control_read)
    os.close(reply_write)
    try:
        yield process.pid, reply
    finally:
        (folder / "on").unlink(missing_ok=True)  # see flees_by_forks
        process.kill()
        process.wait()
        for left in with_trace(folder):
            left.kill()
        while os.read(reply, 1 << 16):  # until nobody is left to hold it
            pass
        os.close(control)
        os.close(reply)


def read_until(fd: int, words: bytes) -> None:
    said = b""
    while words not in said:
        readable, _, _ = select.select([fd], [], [], WAIT_SECONDS)
        assert readable
        said += os.read(fd, 1)


def is_held(fd: int) -> bool:
    """Whether anybody has the other end of a pipe, in which nothing is left to read."""
    while select.select([fd], [], [], 0)[0]:
        if not os.read(fd, 1 << 16):
            return False
    return True


def test_daemon_does_not_outlive_its_box(
    isolating: str, prepared: Prepared, tmp_path: Path, record: Any
) -> None:
    name = "leaves_a_daemon"
    with unsupervised(name, tmp_path / "alone") as (pid, reply):
        read_until(reply, b"got")
        os.waitpid(pid, 0)
        assert is_held(reply), "it does not outlive a plain process either"
    with AttackBox(isolating, tmp_path / isolating, prepared) as box:
        box.run(name, 60.0)
        box.wait_until_nobody_is_left()
        box.supervised.wait_until_ended()
        assert box.supervised.report().reason == "ok"
    assert not box.left()
    record(
        name,
        tries=words_of(name),
        undefended="lives on",
        defended=f"{isolating}: dies with the box",
    )


@pytest.mark.parametrize("killed", ["guard", "supervisor"])
def test_nothing_outlives_a_supervisor_that_is_killed(
    killed: str, isolating: str, prepared: Prepared, tmp_path: Path, record: Any
) -> None:
    name = "forgets_its_parent"
    with unsupervised(name, tmp_path / "alone") as (pid, reply):
        read_until(reply, b"done")
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert is_held(reply), "it does not outlive its parent without a supervisor either"
    with (
        contextlib.suppress(MachineFault),
        AttackBox(isolating, tmp_path / "box", prepared) as box,
    ):
        box.run(name, 60.0)
        assert box.line() == DONE
        victim = box.supervisors()[killed == "supervisor"]
        began = time.monotonic()
        victim.kill()
        box.wait_until_nobody_is_left()
        seconds = time.monotonic() - began
    assert not box.left()
    record(
        f"{name} (the {killed} is killed)",
        tries=words_of(name),
        undefended="lives on",
        defended=f"{isolating}: dead after {seconds:.1f} s",
    )
    assert seconds <= KILLED_WITHIN


def test_time_of_children_cannot_be_hidden(
    isolating: str, prepared: Prepared, tmp_path: Path, record: Any
) -> None:
    """A trial's budget is of processor time: what is hidden would be trained beyond it."""
    name, children, each = "hides_the_time_of_children", 10, 0.1
    used = {}
    for sandbox in ("none", isolating):
        with AttackBox(sandbox, tmp_path / sandbox, prepared) as box:
            box.run(name, 60.0, children=children, seconds=each)
            box.supervised.wait_until_ended()
            used[sandbox] = box.supervised.report().cpu_seconds
    assert used["none"] < children * each / 2
    record(
        name,
        tries=words_of(name),
        undefended="nearly all is hidden",
        defended=f"{isolating}: all is counted",
    )
    assert used[isolating] >= children * each


def test_processes_that_flee_are_caught(
    isolating: str, prepared: Prepared, tmp_path: Path, record: Any
) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("the attack is in machine code of x86_64")
    name, count = "flees_by_forks", 20
    with unsupervised(name, tmp_path / "alone", count=2) as (pid, reply):
        read_until(reply, b"done")
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert is_held(reply), "it does not flee from a plain parent either"
    box = AttackBox(isolating, tmp_path / "box", prepared, processes=100_000)
    try:
        with box:
            box.run(name, 0.5, count=count)
            box.supervised.wait_until_ended()
            report, flees = box.supervised.report(), is_held(box.supervised.reply)
    finally:
        (box.scratch / "on").unlink(missing_ok=True)
    seconds = report.kill_seconds
    record(
        name,
        tries=words_of(name),
        undefended="lives on",
        defended=f"{isolating}: {'lives on' if flees else f'dead after {seconds:.1f} s'}",
    )
    assert not flees
    assert seconds <= KILLED_WITHIN
    assert report.reason == "deadline"
