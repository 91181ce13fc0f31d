from __future__ import annotations

import os
from pathlib import Path
import shutil
import struct
import sys

import pytest

from optuna_arrl.objective import _confine
from optuna_arrl.objective import sandbox as sandbox_module
from optuna_arrl.objective.sandbox import Box
from optuna_arrl.objective.sandbox import box_environment
from optuna_arrl.objective.sandbox import Bubblewrap
from optuna_arrl.objective.sandbox import choose_sandbox
from optuna_arrl.objective.sandbox import Landlock
from optuna_arrl.objective.sandbox import PlainProcess
from optuna_arrl.objective.sandbox import Sandbox
from optuna_arrl.objective.sandbox import SandboxUnavailable
from optuna_arrl.objective.sandbox import self_test


BOX = Box(
    view=Path("/t/view"),
    inbox=Path("/t/inbox"),
    scratch=Path("/t/scratch"),
    readable=(Path("/data"),),
)


def test_environment_is_made_from_an_allow_list(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "LD_PRELOAD", "OMP_NUM_THREADS", "API_TOKEN", "HTTP_PROXY"):
        monkeypatch.setenv(name, "ours")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    environment = box_environment(BOX, data=Path("/data"), profile_json="{}", threads=2)
    ours = {
        "GLIBC_TUNABLES",
        "THP_MEM_ALLOC_ENABLE",
    }  # how torch's memory is kept, the same for all
    assert ours <= environment.keys()
    assert {name: environment[name] for name in environment.keys() - ours} == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "USER": "box",
        "HOME": "/t/scratch",
        "TMPDIR": "/t/scratch",
        "PYTHONDONTWRITEBYTECODE": "1",
        "ARRL_DATA": "/data",
        "ARRL_PROFILE": "{}",
        "OMP_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "2",
        "OPENBLAS_NUM_THREADS": "2",
        "CUDA_VISIBLE_DEVICES": "3",
    }


def test_threads_are_left_to_the_libraries_when_none_are_given() -> None:
    environment = box_environment(BOX, data=Path("/data"), profile_json="{}", threads=0)
    assert "OMP_NUM_THREADS" not in environment


def test_plain_process_says_that_it_isolates_nothing() -> None:
    sandbox: Sandbox = PlainProcess()
    assert (sandbox.name, sandbox.isolated) == ("none", False)
    assert sandbox.command(BOX, ("python", "x.py")) == ["python", "x.py"]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "val.bin").write_bytes(b"secret")
    return tmp_path / "val.bin"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.mark.parametrize("name", ["bubblewrap", "landlock"])
def test_sandbox_that_holds_is_chosen_by_name(name: str, secret: Path, data: Path) -> None:
    try:
        sandbox = choose_sandbox(name, secrets=(secret,), readable=data)
    except SandboxUnavailable as error:
        pytest.skip(f"this machine has no box of this kind: {error.fault}")
    assert (sandbox.name, sandbox.isolated) == (name, True)


def test_self_test_names_everything_that_it_could_do(secret: Path, data: Path) -> None:
    fault = self_test(PlainProcess(), secrets=(secret,), readable=data)
    assert fault is not None
    assert f"it reads {secret}" in fault
    assert "it opens a socket" in fault
    assert "it writes to" in fault
    assert f"it reads /proc/{os.getpid()}/environ" in fault


@pytest.mark.parametrize("kind", [Bubblewrap, Landlock])
def test_self_test_finds_a_secret_that_lies_in_what_may_be_read(
    kind: type[Sandbox], secret: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = data / "inner"
    inner.mkdir()
    hidden = inner / "val.bin"
    hidden.write_bytes(b"secret")
    (data / "train.bin").write_bytes(b"seen")
    if (fault := self_test(kind(), secrets=(), readable=data)) is not None:
        pytest.skip(f"this machine has no box of this kind: {fault}")
    assert self_test(kind(), secrets=(hidden,), readable=data) is None
    # Were it not hidden, it could be read there.
    monkeypatch.setattr(sandbox_module, "_hidden", lambda box: [])
    assert self_test(kind(), secrets=(hidden,), readable=data) == f"it reads {hidden}"


@pytest.mark.parametrize("kind", [Bubblewrap, Landlock])
def test_self_test_finds_a_folder_of_texts_that_lies_in_what_may_be_read(
    kind: type[Sandbox], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = data / "texts"
    texts.mkdir()
    (texts / "1.txt").write_text("secret")
    (data / "train.bin").write_bytes(b"seen")
    if (fault := self_test(kind(), secrets=(), readable=data)) is not None:
        pytest.skip(f"this machine has no box of this kind: {fault}")
    assert self_test(kind(), secrets=(texts,), readable=data) is None
    monkeypatch.setattr(sandbox_module, "_hidden", lambda box: [])
    fault = self_test(kind(), secrets=(texts,), readable=data)
    assert fault == f"it reads {texts / '1.txt'}"


def test_folder_that_boxes_run_from_cannot_be_hidden(data: Path) -> None:
    with pytest.raises(SandboxUnavailable, match=r"^Boxes could not .* in a folder of its own\.$"):
        choose_sandbox("auto", secrets=(data.parent,), readable=data)
    assert choose_sandbox("none", secrets=(data.parent,), readable=data).name == "none"


def test_auto_takes_the_next_when_the_first_does_not_hold(
    secret: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults: dict[type[Sandbox], str | None] = {Bubblewrap: "no user namespaces", Landlock: None}
    monkeypatch.setattr(sandbox_module, "_fault", lambda kind, *_: faults[kind])
    assert choose_sandbox("auto", secrets=(secret,), readable=data).name == "landlock"
    with pytest.raises(SandboxUnavailable, match="bubblewrap: no user namespaces"):
        choose_sandbox("bubblewrap", secrets=(secret,), readable=data)
    faults[Landlock] = "this kernel has no Landlock"
    with pytest.raises(SandboxUnavailable, match=r"no Landlock\): install bubblewrap"):
        choose_sandbox("auto", secrets=(secret,), readable=data)
    assert choose_sandbox("none", secrets=(secret,), readable=data).name == "none"


def test_missing_bubblewrap_is_said(
    secret: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    sandbox_module._bwrap.cache_clear()
    assert self_test(Bubblewrap(), secrets=(secret,), readable=data) == "bwrap is not installed"
    sandbox_module._bwrap.cache_clear()


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_other_systems_are_refused_with_a_way_to_go_on(
    secret: Path, data: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    with pytest.raises(SandboxUnavailable, match="a Linux container or, on Windows, WSL 2"):
        choose_sandbox("none", secrets=(secret,), readable=data)


def test_unknown_sandbox_is_refused(secret: Path, data: Path) -> None:
    with pytest.raises(
        ValueError, match="one of auto, bubblewrap, landlock, none, but got 'jail'"
    ):
        choose_sandbox("jail", secrets=(secret,), readable=data)


def test_hidden_folders_are_cut_out_of_readable_ones(tmp_path: Path) -> None:
    for name in ("site/ours/data", "site/torch", "site/other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "site" / "one.py").touch()
    (tmp_path / "site" / "link").symlink_to(tmp_path / "elsewhere")
    read, names = sandbox_module._without(
        [str(tmp_path / "site" / "ours")], [str(tmp_path / "site")]
    )
    assert sorted(read) == [str(tmp_path / "site" / n) for n in ("one.py", "other", "torch")]
    assert names == [str(tmp_path / "site")]


def verdict(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """Run a classic BPF program on a system call, as the kernel would."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    code = list(struct.iter_unpack("HBBI", program))
    accumulator = at = 0
    while True:
        operation, if_true, if_false, k = code[at]
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, k)
            case 0x54:
                accumulator &= k
            case 0x15:
                at += if_true if accumulator == k else if_false
            case 0x35:
                at += if_true if accumulator >= k else if_false
            case 0x45:
                at += if_true if accumulator & k else if_false
            case 0x06:
                return k
            case _:
                raise AssertionError(operation)


ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS = 0x00050001, 0x00050026
X86, ARM = 0xC000003E, 0xC00000B7


@pytest.mark.parametrize(("machine", "arch", "column"), [("x86_64", X86, 0), ("aarch64", ARM, 1)])
@pytest.mark.parametrize("abi", [None, 7])
def test_filter_denies_what_reaches_out_and_allows_the_rest(
    machine: str, arch: int, column: int, abi: int | None
) -> None:
    unix_sockets = abi is None
    program = _confine.system_call_filter(machine, landlock_abi=abi, pid=77)
    for numbers in _confine._DENIED.values():
        assert verdict(program, arch, numbers[column]) == EPERM
    socket, pair, clone = (x[column] for x in (_confine._SOCKET, (53, 199), _confine._CLONE))
    af_unix, af_inet, stream, datagram = 1, 2, 1 | 0o2000000, 2 | 0o2000000
    assert verdict(program, arch, socket, af_inet, stream) == EPERM
    assert verdict(program, arch, socket, af_unix, stream) == (ALLOW if unix_sockets else EPERM)
    assert verdict(program, arch, pair, af_unix, stream) == ALLOW
    expected = ALLOW if unix_sockets else EPERM
    assert verdict(program, arch, pair, af_unix, datagram) == expected
    sigchld, new_user = 17, 0x10000000
    assert verdict(program, arch, clone, sigchld) == ALLOW
    assert verdict(program, arch, clone, sigchld | new_user) == EPERM
    assert verdict(program, arch, 435) == ENOSYS  # clone3
    prlimit = _confine._PRLIMIT[column]
    assert verdict(program, arch, prlimit, 0) == ALLOW
    assert verdict(program, arch, prlimit, 4711) == EPERM
    read, kill = {"x86_64": (0, 62), "aarch64": (63, 129)}[machine]
    assert verdict(program, arch, read) == ALLOW
    assert verdict(program, arch, kill, 4711, 9) == ALLOW
    assert verdict(program, X86 ^ ARM, read) == KILL


def test_filter_covers_what_landlock_leaves_open() -> None:
    program = _confine.system_call_filter("x86_64", landlock_abi=7, pid=77)
    chmod, chown, setxattr, utimensat, ioctl = 90, 92, 188, 280, 16
    assert verdict(program, X86, chmod) == 0x00050000  # as if it had worked
    assert verdict(program, X86, utimensat) == 0x00050000
    assert verdict(program, X86, chown) == EPERM
    assert verdict(program, X86, setxattr) == EPERM
    set_flags, window_size = 0x40086602, 0x5413
    assert verdict(program, X86, ioctl, 3, set_flags) == EPERM
    assert verdict(program, X86, ioctl, 3, window_size) == ALLOW
    with_namespaces = _confine.system_call_filter("x86_64", landlock_abi=None, pid=77)
    assert verdict(with_namespaces, X86, chmod) == ALLOW
    assert verdict(with_namespaces, X86, ioctl, 3, set_flags) == EPERM


@pytest.mark.parametrize("abi", [None, 7])
def test_filter_keeps_boxes_from_leaving_notes_for_others(abi: int | None) -> None:
    program = _confine.system_call_filter("x86_64", landlock_abi=abi, pid=77)
    fcntl, ioctl, madvise, preadv2, fadvise, mincore = 72, 16, 28, 327, 221, 27
    for command in (1024, 1026, 1036, 1038):
        assert verdict(program, X86, fcntl, 3, command) == EPERM
    get_flags, set_lock = 3, 6
    assert verdict(program, X86, fcntl, 3, get_flags) == ALLOW
    assert verdict(program, X86, fcntl, 3, set_lock) == ALLOW
    assert verdict(program, X86, ioctl, 3, 0x40087602) == EPERM  # FS_IOC_SETVERSION
    page_out, huge_page = 21, 14
    assert verdict(program, X86, madvise, 0, 0, page_out) == EPERM
    assert verdict(program, X86, madvise, 0, 0, huge_page) == ALLOW
    assert verdict(program, X86, preadv2, 3, 0, 1, 0, 0, 8) == EPERM
    assert verdict(program, X86, preadv2, 3, 0, 1, 0, 0, 0) == ALLOW
    assert verdict(program, X86, fadvise) == 0x00050000
    assert verdict(program, X86, mincore) == EPERM


@pytest.mark.parametrize(("abi", "expected"), [(1, EPERM), (2, EPERM), (3, ALLOW), (7, ALLOW)])
def test_filter_denies_truncation_where_landlock_does_not(abi: int, expected: int) -> None:
    program = _confine.system_call_filter("x86_64", landlock_abi=abi, pid=77)
    truncate, open_, openat, openat2 = 76, 2, 257, 437
    assert verdict(program, X86, truncate) == expected
    assert verdict(program, X86, open_, 0, os.O_RDONLY | os.O_TRUNC) == expected
    assert verdict(program, X86, openat, 0, 0, os.O_RDONLY | os.O_TRUNC) == expected
    assert verdict(program, X86, openat2) == ENOSYS  # its flags lie in memory
    for flags in (3, 3 | os.O_TRUNC):  # an access mode that asks for no right
        assert verdict(program, X86, openat, 0, 0, flags) == EPERM
    # Landlock asks for the right to write here, whatever its version.
    assert verdict(program, X86, openat, 0, 0, os.O_WRONLY | os.O_TRUNC) == ALLOW
    assert verdict(program, X86, openat, 0, 0, os.O_RDONLY) == ALLOW


def test_filter_keeps_signals_to_oneself_where_landlock_does_not() -> None:
    program = _confine.system_call_filter("x86_64", landlock_abi=5, pid=77)
    fcntl, set_owner, set_owner_ex, get_flags = 72, 8, 15, 3
    assert verdict(program, X86, fcntl, 3, set_owner) == EPERM
    assert verdict(program, X86, fcntl, 3, set_owner_ex) == EPERM
    assert verdict(program, X86, fcntl, 3, get_flags) == ALLOW
    kill, tkill, tgkill = 62, 200, 234
    assert verdict(program, X86, kill, 77, 6) == ALLOW
    assert verdict(program, X86, tgkill, 77, 78) == ALLOW
    for number in (kill, tgkill, tkill):
        assert verdict(program, X86, number, 4711, 9) == EPERM


def test_x32_calls_end_the_process() -> None:
    program = _confine.system_call_filter("x86_64", landlock_abi=7, pid=77)
    assert verdict(program, X86, 0x40000000 | 41, 2) == KILL


def test_machine_without_numbers_is_refused() -> None:
    with pytest.raises(OSError, match="no system call filter for riscv64"):
        _confine.system_call_filter("riscv64", landlock_abi=None, pid=77)
