from __future__ import annotations

from collections.abc import Callable
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import textwrap
import threading
import time

import psutil
import pytest

from optuna_arrl.objective import boxes
from optuna_arrl.objective import supply
from optuna_arrl.objective.boxes import BoxReport
from optuna_arrl.objective.boxes import Limits
from optuna_arrl.objective.boxes import MachineFault
from optuna_arrl.objective.boxes import SupervisedBox
from optuna_arrl.objective.reference import machine_reference_seconds


StartBox = Callable[..., SupervisedBox]
AssertGone = Callable[[psutil.Process], None]

MIB = 1 << 20
KILLED_WITHIN = 1.0  # seconds, the whole tree
# Ends only by SIGKILL.
STUBBORN = """
for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
    try:
        signal.signal(number, signal.SIG_IGN)
    except OSError:
        pass
while True:
    signal.pause()
"""
# Leaves its session and its parent, as daemons do, and tells its pid in a file.
DAEMON = """
told, tell = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        with open("pid", "w") as file:
            file.write(str(os.getpid()))
        os.close(tell)
        os.close(told)
        while True:
            signal.pause()
    os._exit(0)
os.close(tell)
os.read(told, 1)
"""


def to_the_end(box: SupervisedBox) -> BoxReport:
    with box:
        box.wait_until_handed_over()
        box.wait_until_ended()
    return box.report()


@pytest.mark.parametrize(
    ("code", "reason", "returncode"),
    [
        ("pass", "ok", 0),
        ("sys.exit(11)", "exit", 11),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "signal", -signal.SIGSEGV),
    ],
)
def test_reports_how_the_command_ended(
    start_box: StartBox, code: str, reason: str, returncode: int
) -> None:
    report = to_the_end(start_box(code))
    assert (report.reason, report.returncode) == (reason, returncode)
    assert report.began < report.start < report.ended < report.deadline


def test_hands_over_the_task_with_start_and_deadline(start_box: StartBox, tmp_path: Path) -> None:
    code = "open('task', 'w').write(json.dumps(task))"
    report = to_the_end(start_box(code, run_seconds=50.0))
    task = json.loads((tmp_path / "task").read_text())
    assert task == {"source": "train.py", "start": report.start, "deadline": report.deadline}
    assert task["deadline"] - task["start"] == pytest.approx(50.0)


BUSY = """
import time
while True:
    time.monotonic()
"""


@pytest.mark.parametrize(
    ("reference_seconds", "limit"),
    [(1e3, 2.0 / 2.0), (1e-9, 2.0 * 3.0)],  # a machine that is much faster, or slower
)
def test_deadline_moves_with_the_speed_of_the_machine_within_bounds(
    start_box: StartBox, reference_seconds: float, limit: float
) -> None:
    report = to_the_end(start_box(BUSY, run_seconds=2.0, reference_seconds=reference_seconds))
    assert report.reason == "deadline"
    assert report.deadline - report.start == pytest.approx(limit, abs=0.2)
    assert report.rate == pytest.approx(2.0 / limit)


def test_box_is_told_where_its_deadline_has_moved_to(start_box: StartBox) -> None:
    code = """
    import select, struct
    pace = int(sys.argv[3])
    select.select([pace], [], [])
    (deadline,) = struct.unpack("<d", os.read(pace, 8))
    print(deadline - task["start"])
    """
    report = to_the_end(start_box(code, run_seconds=50.0, reference_seconds=1e3))
    # Of the first piece and the two that are taken as seen before.
    assert 25.0 <= float(report.log) < 50.0


def test_time_that_a_box_does_not_have_is_not_counted(start_box: StartBox, tmp_path: Path) -> None:
    idle = """
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 2.0)
    signal.pause()
    """
    # By the machine's own reference about a seventh of two seconds asleep counts: below the third
    # that a box is granted at least, even if the machine is now twice as fast as when measured.
    reference = machine_reference_seconds(tmp_path)
    report = to_the_end(start_box(idle, run_seconds=30.0, reference_seconds=reference))
    assert (report.reason, report.rate) == ("ok", pytest.approx(1.0 / 3.0))
    assert report.cpu_seconds < 0.3


def test_more_work_than_the_budget_allows_is_late_whatever_the_clock_says(
    start_box: StartBox, tmp_path: Path
) -> None:
    # It sleeps, which moves its deadline to three times the budget, then computes for more than
    # twice the budget while nobody looks.
    code = """
    import time
    time.sleep(2.0)
    supervisor = os.getppid()
    os.kill(supervisor, signal.SIGSTOP)
    if os.fork() == 0:
        time.sleep(3.4)
        os.kill(supervisor, signal.SIGCONT)
        os._exit(0)
    while time.process_time() < 3.0:
        pass
    """
    reference = 1.5 * machine_reference_seconds(tmp_path)
    report = to_the_end(start_box(code, run_seconds=2.0, reference_seconds=reference))
    assert report.reason == "deadline"


def test_kills_at_the_deadline_what_ignores_every_signal(start_box: StartBox) -> None:
    report = to_the_end(start_box(STUBBORN, run_seconds=0.3))
    assert (report.reason, report.returncode) == ("deadline", None)
    assert report.ended >= report.deadline
    assert report.ended + report.kill_seconds <= report.deadline + KILLED_WITHIN


def test_stops_a_tree_that_takes_too_much_memory(start_box: StartBox) -> None:
    # No process of it is over the limit alone.
    code = """
    for _ in range(4):
        if os.fork() == 0:
            data = bytearray(60 << 20)
            break
    signal.pause()
    """
    report = to_the_end(start_box(code, memory_bytes=200 * MIB))
    assert report.reason == "memory"
    assert report.peak_memory_bytes > 200 * MIB


def test_peak_memory_includes_what_was_given_back_between_two_looks(start_box: StartBox) -> None:
    report = to_the_end(start_box("data = bytearray(100 << 20); del data"))
    assert 100 * MIB < report.peak_memory_bytes < 200 * MIB


def test_stops_a_fork_bomb_and_leaves_nothing_of_it(start_box: StartBox, tmp_path: Path) -> None:
    code = """
    child = [sys.executable, "-I", "-S", "-c", "import signal; signal.pause()", os.getcwd()]
    while True:
        if os.fork() == 0:
            os.execv(sys.executable, child)
    """
    report = to_the_end(start_box(code, memory_bytes=1 << 40))
    assert report.reason == "processes"
    left = [p.info["cmdline"] or [] for p in psutil.process_iter(["cmdline"])]
    assert not [command for command in left if str(tmp_path) in command]


def test_keeps_head_and_tail_of_a_long_log(start_box: StartBox) -> None:
    code = """
    print("the first line")
    for _ in range(100):
        print("x" * 99999)
    print("the last line")
    """
    report = to_the_end(start_box(code))
    assert report.reason == "ok"
    assert report.log_bytes == 100 * 100_000 + len("the first line\nthe last line\n")
    assert len(report.log) < 260 * 1024
    assert report.log.startswith(b"the first line\n")
    assert report.log.endswith(b"the last line\n")
    assert b"bytes left out" in report.log


def test_short_log_is_kept_as_it_is(start_box: StartBox) -> None:
    report = to_the_end(start_box("print('one'); print('two', file=sys.stderr)"))
    assert sorted(report.log.split()) == [b"one", b"two"]


def test_stops_a_log_flood(start_box: StartBox) -> None:
    report = to_the_end(start_box("while True: os.write(1, b'x' * 1000000)"))
    assert report.reason == "log"
    assert len(report.log) < 260 * 1024


def test_daemon_dies_with_its_box(
    start_box: StartBox, tmp_path: Path, assert_gone: AssertGone
) -> None:
    with start_box(DAEMON + STUBBORN) as box:
        box.wait_until_handed_over()
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            pass
        daemon = psutil.Process(int((tmp_path / "pid").read_text()))
    assert box.report().reason == "abandoned"
    assert_gone(daemon)


def test_daemon_does_not_outlive_a_box_that_ended_well(
    start_box: StartBox, tmp_path: Path
) -> None:
    report = to_the_end(start_box(DAEMON))
    assert report.reason == "ok"
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_box_inherits_no_other_descriptor_and_no_variable(
    start_box: StartBox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "x")
    code = """
    def is_open(fd):
        try:
            return os.fstat(fd) is not None
        except OSError:
            return False
    found = {
        "fds": sorted(set(filter(is_open, range(256))) - {0, 1, 2, control, reply}),
        "variables": sorted(set(os.environ) - {"LC_CTYPE"}),
    }
    open("found", "w").write(json.dumps(found))
    """
    with open(tmp_path / "other", "w") as other:
        os.set_inheritable(other.fileno(), True)
        to_the_end(start_box(code))
    found = json.loads((tmp_path / "found").read_text())
    assert found == {"fds": [], "variables": ["PATH"]}


def test_box_outlives_the_thread_that_started_it(start_box: StartBox) -> None:
    # A parent-death signal would fire here: it is bound to the thread that forked.
    boxes: list[SupervisedBox] = []
    code = "os.read(control, 1); sys.exit(7)"
    thread = threading.Thread(target=lambda: boxes.append(start_box(code)))
    thread.start()
    thread.join()
    with boxes[0] as box:
        box.wait_until_handed_over()
        # Only now is the box told to go on.
        os.write(box.control, b"x")
        box.wait_until_ended()
    assert box.report().returncode == 7


def test_box_can_be_stopped_while_a_fork_holds_our_descriptors(
    start_box: StartBox,
) -> None:
    with start_box(STUBBORN) as box:
        box.wait_until_handed_over()
        fork = os.fork()
        if fork == 0:
            while True:
                signal.pause()
    try:
        assert box.report().reason == "abandoned"
    finally:
        os.kill(fork, signal.SIGKILL)
        os.waitpid(fork, 0)


def test_launcher_that_is_never_ready_is_a_fault_of_the_machine(start_box: StartBox) -> None:
    box = start_box("import signal; signal.pause()", handshake=False, start_seconds=0.3)
    with pytest.raises(MachineFault, match="not ready in time"), box:
        box.wait_until_handed_over()


def test_launcher_that_breaks_is_a_fault_of_the_machine_that_tells_why(
    start_box: StartBox,
) -> None:
    with (
        pytest.raises(MachineFault, match="No module named 'torch'"),
        start_box("import torch", handshake=False) as box,
    ):
        box.wait_until_handed_over()


def test_command_that_does_not_exist_is_a_fault_of_the_machine(tmp_path: Path) -> None:
    box = SupervisedBox(
        lambda fds: ["/nowhere/python"],
        environment={},
        folder=tmp_path,
        limits=Limits(start_seconds=60.0, memory_bytes=MIB, disk_bytes=MIB),
    )
    with pytest.raises(MachineFault, match="/nowhere/python"), box:
        box.wait_until_handed_over()


@pytest.mark.parametrize("killed", ["guard", "supervisor"])
def test_killed_supervisor_takes_its_box_along(
    start_box: StartBox, tmp_path: Path, assert_gone: AssertGone, killed: str
) -> None:
    box = start_box(DAEMON + "open('up', 'w').close()\n" + STUBBORN)
    with box:
        box.wait_until_handed_over()
        while not (tmp_path / "up").exists():
            pass
        guard = next(
            p for p in psutil.Process().children() if "_supervisor" in " ".join(p.cmdline())
        )
        (supervisor,) = guard.children()
        tree = supervisor.children(recursive=True)
        assert int((tmp_path / "pid").read_text()) in {process.pid for process in tree}
        (guard if killed == "guard" else supervisor).kill()
        try:
            box.wait_until_ended()
        except MachineFault as fault:
            assert "was killed" in str(fault)
    for process in (guard, supervisor, *tree):
        assert_gone(process)


def test_box_waits_for_its_task_and_its_budget_begins_then(start_box: StartBox) -> None:
    box = start_box("pass", hand_over=False)
    with box:
        assert box.is_ready(wait=True)
        waited_until = time.monotonic()
        box.hand_over({}, run_seconds=50.0)
        box.wait_until_ended()
    report = box.report()
    assert report.reason == "ok"
    assert report.start >= waited_until
    assert report.deadline - report.start == pytest.approx(50.0)


def test_box_that_is_stopped_at_once_never_runs(start_box: StartBox, tmp_path: Path) -> None:
    start_box("open('ran', 'w')", hand_over=False).end()
    assert not (tmp_path / "ran").exists()


def test_box_that_ended_while_it_waited_is_not_ready(start_box: StartBox) -> None:
    with start_box("", hand_over=False) as box:
        assert box.is_ready(wait=True)
        (root,) = [p for p in psutil.Process().children(recursive=True) if "-S" in p.cmdline()]
        root.kill()
        root.wait()
        box.wait_until_ended()
        assert not box.is_ready()


def test_box_that_waits_too_long_ends_and_takes_its_folder_along(
    start_box: StartBox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(boxes, "_IDLE_SECONDS", 0.1)
    folder = tmp_path / "of the box"
    folder.mkdir()
    with start_box("", hand_over=False, orphaned=(folder,)) as box:
        box.wait_until_ended()
        assert not box.is_ready()
    assert not folder.exists()


def test_files_beyond_the_limit_end_a_box(start_box: StartBox) -> None:
    code = """
    with open("big", "wb") as file:
        while True:
            file.write(b"x" * (1 << 20))
            file.flush()
    """
    report = to_the_end(start_box(code, disk_bytes=20 * MIB))
    assert report.reason == "disk"


@pytest.mark.parametrize(
    "code",
    [
        "for n in range(20000): open(f'{n}', 'w').close()",  # empty: not a byte of disk
        "for n in range(5000): os.mkdir('folder'); os.chdir('folder')",
    ],
)
def test_files_without_number_or_end_end_a_box(
    start_box: StartBox, tmp_path: Path, code: str
) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()
    box = start_box(f"os.chdir({str(folder)!r})\n{code}\nsignal.pause()")
    assert to_the_end(box).reason == "disk"
    supply._remove(folder)
    assert not folder.exists()


def test_hole_in_a_file_takes_no_disk(start_box: StartBox) -> None:
    code = "open('sparse', 'wb').truncate(1 << 40)"
    assert to_the_end(start_box(code, disk_bytes=20 * MIB)).reason == "ok"


def test_box_gets_the_cores_it_is_handed(start_box: StartBox, tmp_path: Path) -> None:
    available = sorted(os.sched_getaffinity(0))
    code = "open('cores', 'w').write(json.dumps(sorted(os.sched_getaffinity(0))))"
    with start_box(code, hand_over=False, cores=available[:1]) as box:
        box.hand_over({}, run_seconds=60.0, cores=available[-1:])
        box.wait_until_ended()
    assert json.loads((tmp_path / "cores").read_text()) == available[-1:]


def test_tree_and_folder_go_when_the_parent_is_killed(
    tmp_path: Path, assert_gone: AssertGone
) -> None:
    # A study's process, as kill -9 or the kernel may end it: it gets no chance to clean up.
    trial_folder = tmp_path / "trial"
    trial_folder.mkdir()
    parent_code = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from optuna_arrl.objective.boxes import Limits, SupervisedBox

        program, folder, trial_folder = sys.argv[1:]
        box = SupervisedBox(
            lambda fds: [sys.executable, "-I", "-S", "-c", program, *map(str, fds)],
            environment={},
            folder=Path(folder),
            limits=Limits(start_seconds=60, memory_bytes=1 << 30, disk_bytes=1 << 30),
            orphaned=(Path(trial_folder),),
        )
        box.hand_over({}, run_seconds=60)
        box.wait_until_handed_over()
        sys.stdin.readline()
        """
    )
    box_code = textwrap.dedent(
        """
        import os, signal, sys
        os.write(int(sys.argv[2]), b'{"ready": true}\\n')
        os.read(int(sys.argv[1]), 65536)
        """
    )
    box_code += DAEMON + "print('up', flush=True)\nopen('up', 'w').close()\n" + STUBBORN
    parent = subprocess.Popen(
        [sys.executable, "-c", parent_code, box_code, str(tmp_path), str(trial_folder)],
        stdin=subprocess.PIPE,
    )
    try:
        while not (tmp_path / "up").exists():
            assert parent.poll() is None
        tree = psutil.Process(parent.pid).children(recursive=True)
        daemon = int((tmp_path / "pid").read_text())
        assert daemon in {process.pid for process in tree}
    finally:
        parent.kill()
        parent.communicate()
    for process in tree:
        assert_gone(process)
    assert not trial_folder.exists()
