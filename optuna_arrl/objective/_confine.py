"""Inside a box: gives up what edited code must not have, then becomes the box's command.

    python -I -S _confine.py CONFIG COMMAND...

CONFIG is one line of JSON: ``landlock`` (null, or the lists ``read``, ``names``, ``write`` and
``devices`` of paths), ``file_bytes`` and ``processes``. This program is copied into the box and
imports the standard library only. What it gives up cannot be taken back by the command or by
anything that the command starts:

- resource limits: no core dumps, the size of a file, processes (not counted for root);
- capabilities, and the power to gain any by executing a file;
- Landlock, where asked for: all files but the listed ones, signals to processes outside the box;
- seccomp: system calls that reach out of the box, or that no training script needs; with Landlock
  also what its version leaves open: network, modes and times of files, truncation, signals.

When any of this fails the command does not run and the exit code is 98.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import resource
import signal
import struct
import sys
from typing import Any


EXIT_NOT_CONFINED = 98

_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_CAPSET = (126, 91)  # x86_64, aarch64
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2

_libc = ctypes.CDLL(None, use_errno=True)


def main(config: dict[str, Any], command: list[str]) -> None:
    _set_limits(config["file_bytes"], config["processes"])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _drop_capabilities()
    abi = 0
    if config["landlock"] is not None:
        abi = landlock_abi()
        if not abi:
            raise OSError(errno.ENOSYS, "this kernel has no Landlock")
        _restrict_files(abi, **config["landlock"])
    code = system_call_filter(platform.machine(), landlock_abi=abi or None, pid=os.getpid())
    _filter_system_calls(code)
    os.execv(command[0], command)


def _set_limits(file_bytes: int, processes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if processes:
        resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))


def _drop_capabilities() -> None:
    # With an empty bounding set, root is an ordinary user once it has executed the command. From
    # Linux 6.14 on CAP_PERFMON alone lets a process in Landlock read the environment of others.
    for capability in range(64):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # EINVAL past the last one
    _must(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    # All other sets too: they may be inherited, and a container's root may not change the bounding
    # set. With no_new_privs nobody gains what is not in the permitted one.
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    nothing = bytes(2 * 3 * 4)
    capset = _CAPSET[_ARCHITECTURES.get(platform.machine(), (0, 0))[1]]
    _must(_libc.syscall(capset, ctypes.c_char_p(header), ctypes.c_char_p(nothing)), "capset")


# --- Landlock (linux/landlock.h) ---------------------------------------------------------------

_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_ADD_RULE = 445
_LANDLOCK_RESTRICT_SELF = 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_ALL_OF_ABI_1 = (1 << 13) - 1
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_NET_TCP = 0b11  # bind and connect
_SCOPE = 0b11  # abstract unix sockets, signals


def landlock_abi() -> int:
    """Version of the kernel's Landlock; 0 where there is none."""
    version = _libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    return max(0, int(version))


def _restrict_files(
    abi: int, *, read: list[str], names: list[str], write: list[str], devices: list[str]
) -> None:
    handled = _ALL_OF_ABI_1
    handled |= _REFER if abi >= 2 else 0
    handled |= _TRUNCATE if abi >= 3 else 0
    handled |= _IOCTL_DEV if abi >= 5 else 0
    fields = [handled]
    if abi >= 4:
        fields.append(_NET_TCP)
    if abi >= 6:
        fields.append(_SCOPE)
    attributes = struct.pack(f"{len(fields)}Q", *fields)
    ruleset = _must(
        _libc.syscall(
            _LANDLOCK_CREATE_RULESET,
            ctypes.c_char_p(attributes),
            ctypes.c_size_t(len(attributes)),
            ctypes.c_uint32(0),
        ),
        "landlock_create_ruleset",
    )
    allowed = [
        (read, _EXECUTE | _READ_FILE | _READ_DIR),
        (names, _READ_DIR),
        (write, handled & ~_IOCTL_DEV),
        (devices, _READ_FILE | _WRITE_FILE | _READ_DIR | _IOCTL_DEV),
    ]
    for paths, access in allowed:
        for path in paths:
            _allow(ruleset, path, access & handled)
    _must(
        _libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)),
        "landlock_restrict_self",
    )
    os.close(ruleset)


def _allow(ruleset: int, path: str, access: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):  # what cannot be read need not be allowed
        return
    if not os.path.isdir(path):
        access &= _OF_FILES
    rule = struct.pack("<Qi", access, fd)
    _must(
        _libc.syscall(
            _LANDLOCK_ADD_RULE,
            ruleset,
            ctypes.c_int(1),
            ctypes.c_char_p(rule),
            ctypes.c_uint32(0),
        ),
        f"landlock_add_rule {path}",
    )
    os.close(fd)


# --- seccomp (linux/seccomp.h, linux/filter.h) --------------------------------------------------

# Audit architecture, then system call numbers: (x86_64, aarch64); None where it has no such call.
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_DENIED = {
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    # ... with whom open files could be left, on their way in a socket, where nobody counts them
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    # ... nor memory that is in a pipe and no longer theirs
    "vmsplice": (278, 75),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "kcmp": (312, 272),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # more cores than the trial was given
    "sched_setaffinity": (203, 122),
    # namespaces and mounts
    "unshare": (272, 97),
    "setns": (308, 268),
    "chroot": (161, 51),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    # memory that outlives a trial, or is shared with others by name
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "semctl": (66, 191),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "mq_timedsend": (242, 182),
    "mq_timedreceive": (243, 183),
    "mq_notify": (244, 184),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # ... nor memory that a file holds and no account shows
    "memfd_secret": (447, 447),
    # what others do with files
    "inotify_add_watch": (254, 27),
    "fanotify_init": (300, 262),
    # what the kernel keeps in memory of files that all boxes may read
    "mincore": (27, 232),
    "cachestat": (451, 451),
    "readahead": (187, 213),
    "io_setup": (206, 0),
    # the kernel itself
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "syslog": (103, 116),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "personality": (135, 92),
}
# Advice on what to keep in memory is not taken.
_ADVICE = (221, 223)  # fadvise64
# Landlock asks for no right to do these to any file of one's own. They are made to seem to work:
# libraries that copy files do them in passing.
_WITHOUT_EFFECT = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
}
# Nor for these, which nobody needs.
_DENIED_WITH_LANDLOCK = {
    "socket": (41, 198),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}
# Without a pid namespace all of a box has to stay in one process group, which can be killed at one
# stroke: processes that fork faster than they are looked for would escape. Who asks for a session
# or a group of its own is told that it has one.
_GROUPS = {"setsid": (112, 157), "setpgid": (109, 154)}
# Nor, below version 6, for signals with a value.
_DENIED_BELOW_ABI_6 = {"rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240)}
_SOCKET, _SOCKETPAIR = (41, 198), (53, 199)
_CLONE, _CLONE3 = (56, 220), (435, 435)
_PRLIMIT = (302, 261)
_SIGACTION = (13, 134)
_KILL, _TKILL, _TGKILL = (62, 129), (200, 130), (234, 131)
_TRUNCATE_FILE = (76, 45)
_OPEN, _OPENAT, _OPENAT2 = (2, None), (257, 56), (437, 437)
_FCNTL, _IOCTL = (72, 25), (16, 29)
_MADVISE, _PREADV2 = (28, 233), (327, 286)

_AF_UNIX, _SOCK_STREAM, _SOCK_SEQPACKET, _SOCK_TYPE_MASK = 1, 1, 5, 0xF
_O_ACCMODE, _O_TRUNC = 0o3, 0o1000
_SIGNAL_OWNERS = (8, 15)  # F_SETOWN, F_SETOWN_EX
# Notes that stay with a file, which its owner may leave even on one that he can only read:
# F_SETLEASE, F_NOTIFY, F_SET_RW_HINT, F_SET_FILE_RW_HINT; FS_IOC_SETFLAGS, FS_IOC_SETVERSION,
# FS_IOC_FSSETXATTR.
_FILE_NOTES = (1024, 1026, 1036, 1038)
_FILE_FLAGS = (0x40086602, 0x40087602, 0x401C5820)
# TIOCSTI, TIOCLINUX: typing on somebody's terminal; FIOSETOWN, SIOCSPGRP: whose a file's signals
# are.
_NOT_OF_FILES = (0x5412, 0x541C, 0x8901, 0x8902)
_PAGE_OUT = (20, 21)  # MADV_COLD, MADV_PAGEOUT
_RWF_NOWAIT = 8
# CLONE_NEWTIME to CLONE_NEWNET.
_CLONE_NAMESPACES = 0x7E020080

_LOAD, _AND, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL_PROCESS = 0x7FFF0000, 0x80000000
_DENY = 0x00050000 | errno.EPERM
_NO_SUCH_CALL = 0x00050000 | errno.ENOSYS
_DO_NOTHING = 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data


class _Program:
    """A classic BPF program, put together forwards."""

    def __init__(self) -> None:
        self._code: list[bytes] = []

    def add(self, code: int, k: int, if_true: int = 0, if_false: int = 0) -> None:
        self._code.append(struct.pack("HBBI", code, if_true, if_false, k))

    def on_call(self, number: int | None, *block: tuple[int, int, int, int]) -> None:
        """Run a block, which must return on each path, for one system call."""
        if number is None:  # this architecture has no such call
            return
        self.add(_IF_EQUAL, number, 0, len(block))
        for code, k, if_true, if_false in block:
            self.add(code, k, if_true, if_false)

    def packed(self) -> bytes:
        return b"".join(self._code)


def system_call_filter(machine: str, *, landlock_abi: int | None, pid: int) -> bytes:
    """Build the seccomp program of a box.

    Args:
        machine:
            As :func:`platform.machine` names it.
        landlock_abi:
            Version of the Landlock in force; :obj:`None` where namespaces are, in which no socket,
            file or process of the machine is in view.
        pid:
            Of the process that is to be confined.

    Returns:
        Packed ``struct sock_filter`` instructions.

    Raises:
        OSError: There are no system call numbers for this machine.
    """
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no system call filter for {machine}")
    audit, column = _ARCHITECTURES[machine]
    program = _Program()
    program.add(_LOAD, _ARCHITECTURE)
    program.add(_IF_EQUAL, audit, 1, 0)
    program.add(_RETURN, _KILL_PROCESS)
    program.add(_LOAD, _NUMBER)
    if machine == "x86_64":  # the x32 calls have numbers of their own
        program.add(_IF_AT_LEAST, 0x40000000, 0, 1)
        program.add(_RETURN, _KILL_PROCESS)
    for numbers in _DENIED.values():
        program.on_call(numbers[column], _returning(_DENY))
    program.on_call(_CLONE[column], *_deny_if(0, (_IF_ANY_BIT, _CLONE_NAMESPACES)))
    # Its flags lie in memory, which a filter cannot read: the C library falls back to clone.
    program.on_call(_CLONE3[column], _returning(_NO_SUCH_CALL))
    program.on_call(_PRLIMIT[column], *_deny_unless(0, 0))
    # Children of a process that ignores their end are reaped without account of their time.
    program.on_call(
        _SIGACTION[column],
        _argument(0),
        (_IF_EQUAL, signal.SIGCHLD, 0, 1),
        _returning(_DO_NOTHING),
        _returning(_ALLOW),
    )
    program.on_call(_ADVICE[column], _returning(_DO_NOTHING))
    program.on_call(_MADVISE[column], *_deny_if_one_of(2, _PAGE_OUT))
    program.on_call(_PREADV2[column], *_deny_if(5, (_IF_ANY_BIT, _RWF_NOWAIT)))
    program.on_call(_IOCTL[column], *_deny_if_one_of(1, (*_FILE_FLAGS, *_NOT_OF_FILES)))
    # Below this version signals reach whatever the user may signal.
    owners = _SIGNAL_OWNERS if landlock_abi is not None and landlock_abi < 6 else ()
    program.on_call(_FCNTL[column], *_deny_if_one_of(1, (*_FILE_NOTES, *owners)))
    if landlock_abi is None:
        program.on_call(_SOCKET[column], *_deny_unless(0, _AF_UNIX))
    else:
        _add_what_landlock_leaves_open(program, landlock_abi, column, pid)
    program.add(_RETURN, _ALLOW)
    return program.packed()


def _add_what_landlock_leaves_open(program: _Program, abi: int, column: int, pid: int) -> None:
    for numbers in _DENIED_WITH_LANDLOCK.values():
        program.on_call(numbers[column], _returning(_DENY))
    for numbers in (*_WITHOUT_EFFECT.values(), *_GROUPS.values()):
        program.on_call(numbers[column], _returning(_DO_NOTHING))
    # A connected pair of streams reaches nobody else; one of datagrams takes addresses.
    program.on_call(
        _SOCKETPAIR[column],
        _argument(0),
        (_IF_EQUAL, _AF_UNIX, 1, 0),
        _returning(_DENY),
        _argument(1),
        (_AND, _SOCK_TYPE_MASK, 0, 0),
        (_IF_EQUAL, _SOCK_STREAM, 2, 0),
        (_IF_EQUAL, _SOCK_SEQPACKET, 1, 0),
        _returning(_DENY),
        _returning(_ALLOW),
    )
    # Opening with access mode 3 asks for no right at all; with 0 and truncation, before version 3,
    # for that to read. With both bits masked in, 3 is one of two values.
    denied = (_O_ACCMODE, _O_ACCMODE | _O_TRUNC, *((_O_TRUNC,) if abi < 3 else ()))
    for number, argument in ((_OPEN[column], 1), (_OPENAT[column], 2)):
        load, *comparisons = _deny_if_one_of(argument, denied)
        program.on_call(number, load, (_AND, _O_ACCMODE | _O_TRUNC, 0, 0), *comparisons)
    program.on_call(_OPENAT2[column], _returning(_NO_SUCH_CALL))
    if abi < 3:
        program.on_call(_TRUNCATE_FILE[column], _returning(_DENY))
    if abi < 6:
        for numbers in _DENIED_BELOW_ABI_6.values():
            program.on_call(numbers[column], _returning(_DENY))
        program.on_call(_KILL[column], *_deny_unless(0, pid))
        program.on_call(_TGKILL[column], *_deny_unless(0, pid))
        program.on_call(_TKILL[column], _returning(_DENY))


_Instruction = tuple[int, int, int, int]


def _returning(value: int) -> _Instruction:
    return (_RETURN, value, 0, 0)


def _argument(index: int) -> _Instruction:
    return (_LOAD, _ARGUMENT + 8 * index, 0, 0)  # its lower half: none of these is longer


def _deny_if(argument: int, *steps: tuple[int, int]) -> list[_Instruction]:
    """Deny if the last step, a comparison, is true of an argument; allow otherwise."""
    *before, (comparison, k) = steps
    return [
        _argument(argument),
        *((code, operand, 0, 0) for code, operand in before),
        (comparison, k, 0, 1),
        _returning(_DENY),
        _returning(_ALLOW),
    ]


def _deny_unless(argument: int, value: int) -> list[_Instruction]:
    return [
        _argument(argument),
        (_IF_EQUAL, value, 1, 0),
        _returning(_DENY),
        _returning(_ALLOW),
    ]


def _deny_if_one_of(argument: int, values: tuple[int, ...]) -> list[_Instruction]:
    left = range(len(values), 0, -1)
    return [
        _argument(argument),
        *((_IF_EQUAL, value, n, 0) for value, n in zip(values, left, strict=True)),
        _returning(_ALLOW),
        _returning(_DENY),
    ]


def _filter_system_calls(code: bytes) -> None:
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    _must(
        _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_char_p(program), 0, 0),
        "seccomp",
    )


def _must(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]), sys.argv[2:])
    except (OSError, ValueError) as error:  # ValueError: a limit above the hard one
        print(f"the box could not be confined: {error}", file=sys.stderr)
        sys.exit(EXIT_NOT_CONFINED)
