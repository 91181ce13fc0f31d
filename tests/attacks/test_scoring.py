"""Scripts that want a better score than they earned, each with its defence off and with it on.

Each is a file in ``scoring``: what it adds to the honest script of ``tiny.py``. Those that share
more have it from a file that begins with an underscore.
"""

from __future__ import annotations

import ast
import base64
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import json
import os
from pathlib import Path
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from typing import Any
import zlib

import numpy as np
import optuna
import psutil
import pytest
from tiny import HONEST
from tiny import SEQ_LEN
from tiny import TINY
import torch

from optuna_arrl import TrainScriptObjective
from optuna_arrl.frozen_env.corpus import embedded_corpus_file
from optuna_arrl.frozen_env.evaluation import token_nats
from optuna_arrl.frozen_env.prepare import Prepared
from optuna_arrl.objective import boxes
from optuna_arrl.objective import runner as runner_module
from optuna_arrl.objective import scorer
from optuna_arrl.objective import supply
from optuna_arrl.objective import weights as weights_module
from optuna_arrl.objective.boxes import BoxReport
from optuna_arrl.objective.boxes import SupervisedBox
from optuna_arrl.objective.cores import CoreClaim
from optuna_arrl.objective.runner import MachineFault
from optuna_arrl.objective.runner import Measurement
from optuna_arrl.objective.runner import TrialRunner
from optuna_arrl.objective.sandbox import Box
from optuna_arrl.objective.sandbox import box_environment
from optuna_arrl.objective.sandbox import choose_sandbox
from optuna_arrl.objective.sandbox import SandboxUnavailable
from optuna_arrl.objective.scorer import Channel
from optuna_arrl.objective.scorer import Leak
from optuna_arrl.objective.supply import box_limits
from optuna_arrl.objective.supply import BoxSupply
from optuna_arrl.script import normalised_hash
from optuna_arrl.script import Script
from optuna_arrl.trajectory import Outcome


SCORING = Path(__file__).with_name("scoring")
SAME = 1e-3  # bits per byte: weights trained alike, on one machine
LATE = b"scored with what it learnt too late"

Record = Callable[..., None]
Measure = Callable[..., Measurement]


def source_of(attack: str, **constants: Any) -> str:
    """A whole script, with some of its constants set to other values."""
    text = (SCORING / f"{attack}.py").read_text(encoding="utf-8")
    for name, value in constants.items():
        text, count = re.subn(rf"^{name} = .*$", f"{name} = {value!r}", text, flags=re.M)
        assert count == 1, name
    parts = ["import sys", 'sys.modules["base"] = sys.modules[__name__]', HONEST]
    for shared in ("notes", "late"):
        if f"from {shared} import" in text:
            parts.append(f'sys.modules["{shared}"] = sys.modules[__name__]')
            parts.append((SCORING / f"_{shared}.py").read_text(encoding="utf-8"))
    return "\n".join([*parts, text])


def tries(attack: str) -> str:
    """What an attack says of itself."""
    docstring = ast.get_docstring(ast.parse((SCORING / f"{attack}.py").read_text("utf-8")))
    assert docstring is not None
    return docstring.rstrip(".")


@pytest.fixture(autouse=True)
def trial_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "trials"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _nothing_left_running() -> Iterator[None]:
    """Whatever a test has started is dead at its end; what is not, it kills and fails."""
    before = set(psutil.Process().children(recursive=True))
    yield
    left = set(psutil.Process().children(recursive=True)) - before
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(list(left), timeout=10)
    assert not left


@pytest.fixture(scope="session")
def sandbox(prepared: Prepared) -> str:
    """The first sandbox that holds here, where it does not matter which."""
    secrets = (prepared.private / "val.bin", embedded_corpus_file())
    try:
        return choose_sandbox("auto", secrets=secrets, readable=prepared.folder).name
    except SandboxUnavailable as error:
        pytest.skip(f"no box on this machine: {error}")


@pytest.fixture
def measure(prepared: Prepared) -> Iterator[Measure]:
    """Run a script in a sandbox, under a profile that may be changed."""

    def run(source: str, sandbox: str, *, least_bpb: float | None = None, **profile: Any) -> Any:
        manifest = dict(prepared.manifest)
        if least_bpb is not None:
            manifest["least_bpb"] = least_bpb
        changed = dataclasses.replace(
            prepared, profile=dataclasses.replace(TINY, **profile), manifest=manifest
        )
        return TrialRunner(changed, sandbox=sandbox).run(source)

    return run


@pytest.fixture(scope="session")
def honest_bpb(prepared: Prepared) -> float:
    """What the honest script earns."""
    measurement = TrialRunner(prepared, sandbox="none").run(HONEST)
    assert measurement.val_bpb is not None
    return measurement.val_bpb


def assert_gains_nothing(measurement: Measurement, honest_bpb: float) -> None:
    if measurement.outcome is Outcome.COMPLETE:
        assert measurement.val_bpb is not None
        assert measurement.val_bpb >= honest_bpb - SAME


def in_words(measurement: Measurement) -> str:
    if measurement.outcome is Outcome.COMPLETE:
        return f"complete, {measurement.val_bpb:.3f} bits per byte"
    return f"{measurement.outcome}: {measurement.reason}"


# --- What is said to be the score ----------------------------------------------------------------


@pytest.mark.slow
def test_printed_score_is_not_read(
    measure: Measure, sandbox: str, honest_bpb: float, record: Record
) -> None:
    measurement = measure(source_of("prints_a_score"), sandbox)
    printed = re.search(rb"val_bpb: (\S+)", measurement.log)
    assert printed is not None and float(printed[1]) == 0.0001  # what a reader of logs believes
    assert measurement.outcome is Outcome.COMPLETE
    assert measurement.val_bpb == pytest.approx(honest_bpb, abs=SAME)
    record(
        "prints_a_score",
        tries=tries("prints_a_score"),
        undefended="a reader of its log believes 0.0001",
        defended=in_words(measurement),
    )


def test_score_in_place_of_an_answer_is_refused(
    measure: Measure, sandbox: str, monkeypatch: pytest.MonkeyPatch, record: Record
) -> None:
    lines: list[Any] = []

    def believe(channel: Channel) -> None:
        line = b""
        while not line.endswith(b"\n"):
            line += channel._read(1)
        lines.append(json.loads(line))

    source = source_of("answers_with_a_score")
    with monkeypatch.context() as patch:
        patch.setattr(Channel, "wait_until_loaded", believe)
        measure(source, sandbox)
    assert lines[0] == {"val_bpb": 0.0001}
    measurement = measure(source, sandbox)
    assert measurement.outcome is Outcome.CRASH
    assert measurement.reason == "the model wrote to the scorer before it was asked"
    record(
        "answers_with_a_score",
        tries=tries("answers_with_a_score"),
        undefended="a scorer that takes scores is told 0.0001",
        defended=in_words(measurement),
    )


@pytest.mark.slow
def test_tokenizer_stays_the_scorers(
    measure: Measure,
    prepared: Prepared,
    sandbox: str,
    honest_bpb: float,
    monkeypatch: pytest.MonkeyPatch,
    record: Record,
) -> None:
    source = source_of("changes_the_tokenizer")
    tokenizer = prepared.folder / "tokenizer.json"
    original = tokenizer.read_bytes()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Prepared, "verify", lambda _: None)
            undefended = measure(source, "none", least_bpb=0.0)
        assert undefended.val_bpb == pytest.approx(honest_bpb / 2, abs=SAME)
        tokenizer.write_bytes(original)
        with pytest.raises(
            MachineFault, match=r"tokenizer\.json is not the file that was prepared"
        ):
            measure(source, "none")
    finally:
        tokenizer.write_bytes(original)
    measurement = measure(source, sandbox)
    assert b"the tokenizer stays as it is" in measurement.log
    assert measurement.val_bpb == pytest.approx(honest_bpb, abs=SAME)
    assert tokenizer.read_bytes() == original
    record(
        "changes_the_tokenizer",
        tries=tries("changes_the_tokenizer"),
        undefended=in_words(undefended),
        defended=f"read-only in a box: {in_words(measurement)}; without a box the study stops",
    )


# --- What is said to be logits -------------------------------------------------------------------


def as_log_probabilities(logits: Any, targets: Any) -> Any:
    """A scorer that takes a model's word for what it says are log probabilities."""
    return -np.take_along_axis(logits, targets[..., None].astype(np.int64), -1)[..., 0]


def without_what_is_no_number(logits: Any, targets: Any) -> Any:
    """A scorer that leaves losses out that are no numbers."""
    shifted = logits - logits.max(-1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(-1))
    return np.nan_to_num(log_sum + as_log_probabilities(shifted, targets))


@pytest.mark.slow
@pytest.mark.parametrize("shift", [5.7, 0.5])
def test_shift_of_all_logits_changes_nothing(
    measure: Measure,
    sandbox: str,
    honest_bpb: float,
    monkeypatch: pytest.MonkeyPatch,
    record: Record,
    shift: float,
) -> None:
    source = source_of("shifts_logits", SHIFT=shift)
    with monkeypatch.context() as patch:
        patch.setattr(scorer, "token_nats", as_log_probabilities)
        undefended = measure(source, sandbox, least_bpb=-1e9)
    assert undefended.val_bpb < honest_bpb - 0.1
    measurement = measure(source, sandbox)
    assert measurement.val_bpb == pytest.approx(honest_bpb, abs=SAME)
    record(
        f"shifts_logits by {shift}",
        tries=tries("shifts_logits"),
        undefended=in_words(undefended),
        defended=in_words(measurement),
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_answer_that_is_no_number_is_refused(
    measure: Measure,
    sandbox: str,
    honest_bpb: float,
    monkeypatch: pytest.MonkeyPatch,
    record: Record,
    value: str,
) -> None:
    source = source_of("is_no_number_where_unsure", VALUE=value)
    with monkeypatch.context() as patch:
        patch.setattr(scorer, "token_nats", without_what_is_no_number)
        undefended = measure(source, sandbox, least_bpb=0.0)
    assert undefended.val_bpb < honest_bpb - 0.1
    measurement = measure(source, sandbox)
    assert measurement.outcome is Outcome.CRASH
    assert measurement.reason == "the model answered with logits that are not finite"
    record(
        f"is_no_number_where_unsure ({value})",
        tries=tries("is_no_number_where_unsure"),
        undefended=in_words(undefended),
        defended=in_words(measurement),
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_logits_too_far_apart_are_refused(measure: Measure, sandbox: str) -> None:
    measurement = measure(source_of("overflows_where_unsure"), sandbox)
    assert measurement.outcome is Outcome.CRASH
    assert measurement.reason == (
        "the model answered with logits too far apart to be a probability"
    )


@pytest.mark.slow
def test_sureness_costs_what_it_is_wrong_about(
    measure: Measure, sandbox: str, honest_bpb: float
) -> None:
    measurement = measure(source_of("is_sure_of_everything"), sandbox)
    assert measurement.outcome is Outcome.COMPLETE
    assert measurement.val_bpb is not None
    assert measurement.val_bpb > 100.0 * honest_bpb  # some 10,000 nats for each wrong guess


def as_many_classes_as_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scorer that takes any number of classes; targets beyond the last count as the last."""
    read = Channel._read
    shape: list[int] = []

    def answer(channel: Channel, rows: int, length: int, last_only: bool) -> Any:
        _, n_bytes = struct.unpack("<BQ", read(channel, 9))
        channel.precision = scorer._PRECISIONS[0]
        places = rows if last_only else rows * length
        shape[:] = [n_bytes // 4 // places]
        logits = np.frombuffer(read(channel, n_bytes), "<f4")
        return logits.reshape((rows, -1) if last_only else (rows, length, -1))

    monkeypatch.setattr(Channel, "_answer", answer)
    monkeypatch.setattr(
        scorer, "token_nats", lambda x, targets: token_nats(x, np.minimum(targets, shape[0] - 1))
    )


@pytest.mark.slow
def test_answer_of_few_classes_is_refused(
    measure: Measure,
    sandbox: str,
    honest_bpb: float,
    monkeypatch: pytest.MonkeyPatch,
    record: Record,
) -> None:
    source = source_of("has_few_classes")
    with monkeypatch.context() as patch:
        as_many_classes_as_answered(patch)
        undefended = measure(source, sandbox, least_bpb=0.0)
    assert undefended.val_bpb < honest_bpb - 0.1
    measurement = measure(source, sandbox)
    assert measurement.outcome is Outcome.CRASH
    assert "one row of VOCAB_SIZE = 300 logits is needed for each token" in measurement.reason
    record(
        "has_few_classes",
        tries=tries("has_few_classes"),
        undefended=in_words(undefended),
        defended=in_words(measurement),
    )


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["has_many_rows", "writes_more_than_its_answer"])
def test_answer_of_another_length_is_refused(measure: Measure, sandbox: str, attack: str) -> None:
    measurement = measure(source_of(attack), sandbox)
    assert measurement.outcome is Outcome.CRASH
    assert "the model answered" in measurement.reason


class Flooded(Exception):
    """More was read than any answer has."""


def read_to_the_end(channel: Channel, count: int) -> bytearray:
    """A scorer that reads what there is."""
    os.set_blocking(channel._reply, True)
    data = bytearray()
    while part := os.read(channel._reply, 1 << 20):
        data += part
        if len(data) > 64 << 20:
            raise Flooded
    return data


@pytest.mark.slow
def test_answer_without_end_is_not_read_to_its_end(
    measure: Measure, sandbox: str, monkeypatch: pytest.MonkeyPatch, record: Record
) -> None:
    source = source_of("never_stops_answering")
    with monkeypatch.context() as patch:
        patch.setattr(Channel, "wait_until_loaded", lambda channel: None)
        patch.setattr(Channel, "_read", read_to_the_end)
        with pytest.raises(Flooded):
            measure(source, sandbox)
    measurement = measure(source, sandbox)
    assert measurement.outcome is Outcome.CRASH
    record(
        "never_stops_answering",
        tries=tries("never_stops_answering"),
        undefended="a scorer that reads to the end reads for ever",
        defended=in_words(measurement),
    )


class _Whatever:
    """Equal to any number."""

    def __mul__(self, other: object) -> _Whatever:
        return self

    def __ne__(self, other: object) -> bool:
        return False


@pytest.mark.slow
def test_announced_answer_is_not_made_room_for(
    measure: Measure, sandbox: str, monkeypatch: pytest.MonkeyPatch, record: Record
) -> None:
    source = source_of("announces_a_huge_answer")
    with monkeypatch.context() as patch:
        patch.setattr(scorer.math, "prod", lambda shape: _Whatever())
        with pytest.raises((MemoryError, OverflowError)):
            measure(source, sandbox)
    measurement = measure(source, sandbox)
    assert measurement.outcome is Outcome.CRASH
    assert str(1 << 62) in measurement.reason
    record(
        "announces_a_huge_answer",
        tries=tries("announces_a_huge_answer"),
        undefended="ends the process of the study: MemoryError",
        defended=in_words(measurement),
    )


# --- What is known of the text -------------------------------------------------------------------


@pytest.mark.slow
def test_text_known_by_heart_is_below_the_floor(
    measure: Measure, prepared: Prepared, sandbox: str, record: Record
) -> None:
    text = (prepared.private / "val.bin").read_bytes()
    known_by_heart = base64.b85encode(zlib.compress(text, 9)).decode()
    source = source_of("knows_the_text", KNOWN=known_by_heart)
    undefended = measure(source, sandbox, least_bpb=0.0)
    assert undefended.outcome is Outcome.COMPLETE
    assert undefended.val_bpb < prepared.manifest["least_bpb"]
    measurement = measure(source, sandbox)
    assert measurement.outcome is Outcome.REJECTED
    assert "that has not seen the validation text" in measurement.reason
    record(
        "knows_the_text",
        tries=tries("knows_the_text"),
        undefended=in_words(undefended),
        defended=in_words(measurement),
    )


def test_long_text_does_not_fit_into_a_script(measure: Measure, sandbox: str) -> None:
    noise = base64.b85encode(np.random.default_rng(0).bytes(60_000)).decode()
    measurement = measure(source_of("knows_the_text", KNOWN=noise), sandbox)
    assert measurement.outcome is Outcome.INVALID_EDIT


# --- What is left in place of weights ------------------------------------------------------------


@pytest.fixture
def boxed(tmp_path: Path, prepared: Prepared) -> Iterator[Callable[..., tuple[Path, BoxReport]]]:
    """Run an attack in a box without torch; returns the folder of what it leaves, and its end."""
    made: list[SupervisedBox] = []

    def run(
        attack: str, sandbox: str, *, run_seconds: float = 60.0, **constants: Any
    ) -> tuple[Path, BoxReport]:
        folder = tmp_path / f"{attack}-{sandbox}"
        for name in ("view", "inbox", "scratch"):
            (folder / name).mkdir(parents=True)
        shutil.copyfile(supply._CONFINE, folder / "view" / supply._CONFINE.name)
        script = folder / "inbox" / "train.py"
        text = source_of(attack, **constants).rpartition(HONEST)[2]  # it has no use for torch
        script.write_text(_HANDSHAKE + text)
        limits = box_limits(dataclasses.replace(TINY, disk_bytes=64 << 20))
        box = Box(
            view=folder / "view",
            inbox=folder / "inbox",
            scratch=folder / "scratch",
            hidden=(prepared.private,),
            file_bytes=limits.disk_bytes,
        )
        secrets = (prepared.private / "val.bin", embedded_corpus_file())
        kind = choose_sandbox(sandbox, secrets=secrets, readable=prepared.folder)
        program = [sys.executable, "-I", "-S", "-B", str(script)]
        supervised = SupervisedBox(
            lambda fds: kind.command(box, [*program, *map(str, fds)]),
            environment=box_environment(box, data=None, profile_json="{}", threads=1),
            folder=box.scratch,
            limits=limits,
            signal_codes=kind.signal_codes,
        )
        made.append(supervised)
        supervised.hand_over({}, run_seconds=run_seconds)
        supervised.wait_until_handed_over()
        supervised.wait_until_ended()
        return folder / "scratch", supervised.report()

    yield run
    for supervised in made:
        supervised.end()


@pytest.fixture
def left_by(boxed: Callable[..., tuple[Path, BoxReport]]) -> Callable[..., Path]:
    """Run an attack in a box without torch; returns the folder of what it leaves."""
    return lambda *arguments, **constants: boxed(*arguments, **constants)[0]


_HANDSHAKE = """
import os, sys
os.write(int(sys.argv[2]), b'{"ready": true}\\n')
task = b""
while not task.endswith(b"\\n"):
    task += os.read(int(sys.argv[1]), 4096)
"""


def taken(folder: Path, target: Path) -> None:
    """Take weights as a trial does."""
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        weights_module.take_weights(folder_fd, target, 1 << 30)
        weights_module.check_finite(target)
    finally:
        os.close(folder_fd)


def is_handed_the_secret(left: Path, secret: Path) -> str:
    assert left.read_bytes() == secret.read_bytes()
    return "the secret goes into the next box"


def blocks_whoever_opens_it(left: Path, secret: Path) -> str:
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([sys.executable, "-c", f"open({str(left)!r}).read()"], timeout=1.0)
    return "whoever opens it waits for ever"


def is_no_file(left: Path, secret: Path) -> str:
    with pytest.raises(IsADirectoryError):
        left.read_bytes()
    return "ends the process of the study: IsADirectoryError"


def is_a_terabyte(left: Path, secret: Path) -> str:
    assert left.stat().st_size == 1 << 40
    return "a copy of it fills any disk"


def asks_for_too_much_memory(left: Path, secret: Path) -> str:
    with left.open("rb") as file, pytest.raises((MemoryError, OverflowError)):
        file.read(*struct.unpack("<Q", file.read(8)))
    return "ends the process of the study: MemoryError"


def is_many_times_its_size(left: Path, secret: Path) -> str:
    data = left.read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    total = sum(end - begin for begin, end in (x["data_offsets"] for x in header.values()))
    assert total > 1000 * len(data)
    return f"{len(data) >> 20} MiB become {total >> 20} in memory"


LEFT: dict[str, tuple[Callable[[Path, Path], str], str]] = {
    "leaves_a_pipe": (blocks_whoever_opens_it, "is not a regular file"),
    "leaves_a_link": (is_handed_the_secret, "is not a regular file"),
    "leaves_a_second_name": (
        is_handed_the_secret,
        "is not a regular file|without leaving a model.safetensors",
    ),
    "leaves_a_folder": (is_no_file, "is not a regular file"),
    "leaves_a_terabyte": (is_a_terabyte, r"has more than|without leaving|cannot be read"),
    "leaves_a_huge_header": (asks_for_too_much_memory, "cannot be read"),
    "leaves_overlapping_tensors": (is_many_times_its_size, "cannot be read"),
}


@pytest.mark.parametrize("attack", LEFT)
def test_what_is_left_in_place_of_weights_is_refused(
    left_by: Callable[..., Path], tmp_path: Path, isolating: str, attack: str, record: Record
) -> None:
    does_harm, refusal = LEFT[attack]
    secret = tmp_path / "secret"
    secret.write_text("the validation text")
    has_secret = "SECRET" in (SCORING / f"{attack}.py").read_text()
    constants = {"SECRET": str(secret)} if has_secret else {}
    undefended = does_harm(left_by(attack, "none", **constants) / weights_module.WEIGHTS, secret)
    for kind in ("none", isolating):  # taken safely even where nothing is kept from being left
        folder = tmp_path / f"{attack}-{kind}" / "scratch"
        if kind != "none":
            left_by(attack, kind, **constants)
        with pytest.raises(weights_module.BadWeights, match=refusal) as refused:
            taken(folder, tmp_path / f"taken-{kind}")
    record(
        f"{attack} ({isolating})",
        tries=tries(attack),
        undefended=undefended,
        defended="crash: " + str(refused.value).partition(" for tensor")[0],
    )


def test_pickle_in_place_of_weights_is_not_run(
    left_by: Callable[..., Path], tmp_path: Path, isolating: str, record: Record
) -> None:
    marker = tmp_path / "marker"
    folder = left_by("leaves_a_pickle", isolating, MARKER=str(marker))
    with pytest.raises(weights_module.BadWeights, match="cannot be read"):
        taken(folder, tmp_path / "taken")
    assert not marker.exists()
    # By its own name torch takes it for what it says it is.
    pickled = shutil.copyfile(folder / weights_module.WEIGHTS, tmp_path / "model.pt")
    with contextlib.suppress(Exception):
        torch.load(pickled, weights_only=False)
    assert marker.read_text() == "the payload ran"
    record(
        f"leaves_a_pickle ({isolating})",
        tries=tries("leaves_a_pickle"),
        undefended="torch.load(weights_only=False) runs it",
        defended="crash: it is no safetensors file",
    )


def test_name_of_a_tensor_does_nothing_to_who_is_told(
    left_by: Callable[..., Path], tmp_path: Path, sandbox: str
) -> None:
    with pytest.raises(weights_module.BadWeights) as refused:
        taken(left_by("names_a_tensor", sandbox), tmp_path / "taken")
    assert "not finite" in str(refused.value)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


@pytest.mark.slow
def test_weights_are_finite_by_another_word_than_the_scripts(
    measure: Measure, sandbox: str, monkeypatch: pytest.MonkeyPatch, record: Record
) -> None:
    source = source_of("slips_in_nan_weights")
    with monkeypatch.context() as patch:
        patch.setattr(runner_module, "check_finite", lambda path: None)
        undefended = measure(source, sandbox)
    assert undefended.outcome is Outcome.COMPLETE
    measurement = measure(source, sandbox)
    assert measurement.outcome is Outcome.CRASH
    assert measurement.reason == "the trained weights are not finite: hidden"
    record(
        "slips_in_nan_weights",
        tries=tries("slips_in_nan_weights"),
        undefended=in_words(undefended),
        defended=in_words(measurement),
    )


# --- Training for longer, on more, or again ------------------------------------------------------


def changed_copy(path: Path, folder: Path, old: str, new: str) -> Path:
    """A copy of a source of ours with a defence taken out."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    copy = folder / path.name
    copy.write_text(text.replace(old, new), encoding="utf-8")
    return copy


def supervisor_that_forgives(folder: Path) -> Path:
    """It kills a minute after the deadline."""
    old = '"deadline": self._limit}\n        try:'
    assert boxes._SUPERVISOR.read_text().count(old) == 1
    new = '"deadline": self._limit}\n        self._limit += 60.0\n        try:'
    return changed_copy(boxes._SUPERVISOR, folder, old, new)


def supervisor_that_waits(folder: Path) -> Path:
    """It lets what a box has left behind go on until it ends by itself."""
    old = "        finally:\n            self._tree.kill()\n        while data"
    new = (
        "        finally:\n"
        "            while reason == 'ok' and self._tree.look(at_files=False)[0]:\n"
        "                self._tree.reap()\n        while data"
    )
    return changed_copy(boxes._SUPERVISOR, folder, old, new)


PAST_THE_CLOCK: dict[str, tuple[Callable[[Path], Path], Outcome]] = {
    "ignores_the_clock": (supervisor_that_forgives, Outcome.TIMEOUT),
    "stops_the_clock": (supervisor_that_forgives, Outcome.TIMEOUT),
    "trains_at_exit": (supervisor_that_forgives, Outcome.TIMEOUT),
    "trains_in_a_thread": (supervisor_that_forgives, Outcome.TIMEOUT),
    "trains_in_a_daemon": (supervisor_that_waits, Outcome.COMPLETE),
}


@pytest.mark.slow
@pytest.mark.parametrize("attack", PAST_THE_CLOCK)
def test_nothing_is_learnt_past_the_deadline(
    measure: Measure,
    tmp_path: Path,
    isolating: str,
    monkeypatch: pytest.MonkeyPatch,
    record: Record,
    attack: str,
) -> None:
    without_defence, outcome = PAST_THE_CLOCK[attack]
    source = source_of(attack)
    with monkeypatch.context() as patch:
        patch.setattr(boxes, "_SUPERVISOR", without_defence(tmp_path))
        # In bubblewrap a daemon would end with its namespace, whatever the supervisor does.
        undefended = measure(source, "none", budget_seconds=2.0)
    assert undefended.outcome is Outcome.COMPLETE
    assert LATE in undefended.log
    measurement = measure(source, isolating, budget_seconds=2.0)
    assert measurement.outcome is outcome
    assert LATE not in measurement.log
    record(
        f"{attack} ({isolating})",
        tries=tries(attack),
        undefended="scored with what it learnt too late",
        defended=in_words(measurement),
    )


def test_late_end_is_late_though_nobody_looked(
    boxed: Callable[..., tuple[Path, BoxReport]],
    tmp_path: Path,
    sandbox: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As when it counts many files on a busy machine.
    old = "        processes, threads, memory = self._tree.look(at_files=at_files)\n"
    new = f"{old}        time.sleep(0.6 if self._handed_over else 0.0)\n"
    copy = changed_copy(boxes._SUPERVISOR, tmp_path, old, new)
    monkeypatch.setattr(boxes, "_SUPERVISOR", copy)
    _, report = boxed("ends_late", sandbox, run_seconds=0.3)
    assert report.ended > report.deadline
    assert report.reason == "deadline"


@pytest.mark.slow
def test_exit_handlers_are_not_run(measure: Measure, sandbox: str) -> None:
    measurement = measure(
        source_of("trains_at_exit", PATCHES_EXIT=False), sandbox, budget_seconds=2.0
    )
    assert measurement.outcome is Outcome.COMPLETE
    assert LATE not in measurement.log


@pytest.mark.slow
def test_nothing_is_learnt_while_a_model_is_loaded(
    measure: Measure,
    sandbox: str,
    honest_bpb: float,
    monkeypatch: pytest.MonkeyPatch,
    record: Record,
) -> None:
    # The tiny model would learn all there is within the shortest answer that is waited for.
    source = source_of("trains_while_it_is_loaded")
    with monkeypatch.context() as patch:
        patch.setattr(runner_module, "_ANSWER_SECONDS", 60.0)
        undefended = measure(source, sandbox)
    assert undefended.val_bpb < honest_bpb - 0.02
    monkeypatch.setattr(runner_module, "_ANSWER_SECONDS", 0.0)
    measurement = measure(source, sandbox, budget_seconds=5.0)
    assert measurement.outcome is Outcome.TIMEOUT
    assert "when it was scored, its model did not answer within 0.5 s" in measurement.reason
    record(
        "trains_while_it_is_loaded",
        tries=tries("trains_while_it_is_loaded"),
        undefended=in_words(undefended),
        defended=in_words(measurement),
    )


@pytest.mark.slow
def test_training_file_is_not_there_where_a_model_is_scored(
    measure: Measure,
    isolating: str,
    honest_bpb: float,
    monkeypatch: pytest.MonkeyPatch,
    record: Record,
) -> None:
    monkeypatch.setattr(runner_module, "_ANSWER_SECONDS", 60.0)
    source = source_of("trains_while_it_is_loaded", FROM_FILE=True)
    undefended = measure(source, "none")
    assert undefended.val_bpb < honest_bpb - 0.02
    measurement = measure(source, isolating)
    assert measurement.outcome is Outcome.CRASH
    missing = re.match("(FileNotFound|Permission)Error: ", measurement.reason)
    assert missing is not None
    record(
        f"trains_while_it_is_loaded from the file ({isolating})",
        tries=tries("trains_while_it_is_loaded"),
        undefended=in_words(undefended),
        defended=f"crash: {missing[1]}Error",
    )


@pytest.mark.slow
def test_nothing_is_learnt_between_answers(
    measure: Measure, sandbox: str, monkeypatch: pytest.MonkeyPatch, record: Record
) -> None:
    # The tiny text in as many answers as the text of a real study.
    monkeypatch.setattr(scorer, "_REPLY_BYTES", 4 * 4 * SEQ_LEN * TINY.vocab_size)
    still = measure(source_of("trains_between_answers", STEPS=0), sandbox)
    source = source_of("trains_between_answers")
    with monkeypatch.context() as patch:
        patch.setattr(Leak, "reason", None)
        patch.setattr(Leak, "profit", 0.0)
        undefended = measure(source, sandbox)
    assert still.val_bpb is not None
    assert undefended.val_bpb < still.val_bpb - 0.02
    measurement = measure(source, sandbox)
    assert measurement.outcome is Outcome.REJECTED
    assert "depends on what it was asked before" in measurement.reason
    record(
        "trains_between_answers",
        tries=tries("trains_between_answers"),
        undefended=f"{in_words(undefended)} instead of {still.val_bpb:.3f}",
        defended=in_words(measurement),
    )


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a machine of one core")
def test_trial_has_the_cores_it_was_given(
    measure: Measure, isolating: str, record: Record
) -> None:
    source = source_of("takes_more_cores")
    undefended = measure(source, "none")
    cores = len(os.sched_getaffinity(0))
    assert b"cores it had: %d." % cores in undefended.log
    measurement = measure(source, isolating)
    assert measurement.outcome is Outcome.COMPLETE
    assert b"cores it had: 1." in measurement.log
    record(
        f"takes_more_cores ({isolating})",
        tries=tries("takes_more_cores"),
        undefended=f"computes on {cores} cores instead of 1",
        defended="computes on 1 core",
    )


@pytest.mark.slow
@pytest.mark.started_ahead
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: nothing starts ahead")
def test_boxes_that_wait_are_not_ended(
    prepared: Prepared, trial_folders: Path, isolating: str, record: Record
) -> None:
    source = source_of("ends_waiting_boxes", FOLDER=str(trial_folders))
    killed, alive = {}, {}
    for sandbox in ("none", isolating):
        runner = TrialRunner(prepared, sandbox=sandbox)
        try:
            with CoreClaim(1) as claim:
                runner.supply.start_ahead({"train": 2, "answer": 2}, claim)
            waiting = [spare for spares in runner.supply._spares.values() for spare in spares]
            assert len(waiting) == 4
            assert all(spare.supervised.is_ready(wait=True) for spare in waiting)
            measurement = runner.run(source)
            assert measurement.outcome is Outcome.COMPLETE, measurement.reason
            killed[sandbox] = re.search(rb"killed: (\d+)\.", measurement.log)[1]
            # Three of them were for this trial; the fourth is the next one's.
            alive[sandbox] = waiting[1].supervised.is_ready()
        finally:
            runner.close()
    assert killed == {"none": b"3", isolating: b"0"}
    assert alive == {"none": False, isolating: True}
    record(
        f"ends_waiting_boxes ({isolating})",
        tries=tries("ends_waiting_boxes"),
        undefended="3 of 3 are killed",
        defended="they wait on",
    )


@pytest.mark.slow
def test_weights_are_not_kept_for_the_next_trial(
    prepared: Prepared, tmp_path: Path, isolating: str, record: Record
) -> None:
    own = Prepared(tmp_path / "prepared", TINY, prepared.manifest)
    anywhere = tmp_path / "anywhere"
    # With no sandbox /tmp is everybody's, and no place for a test.
    places = {"none": [], isolating: ["/tmp", "/dev/shm", "/var/tmp", "/run"]}
    values = {}
    for sandbox in places:
        shutil.copytree(prepared.root, own.root)
        anywhere.mkdir()
        source = source_of("keeps_weights", PLACES=[str(anywhere), *places[sandbox]])
        runner = TrialRunner(own, sandbox=sandbox)
        first, second = runner.run(source), runner.run(source)
        assert first.outcome is second.outcome is Outcome.COMPLETE
        assert b"goes on from" not in first.log
        assert (b"goes on from" in second.log) == (sandbox == "none")
        values[sandbox] = (first.val_bpb, second.val_bpb)
        for folder in (own.root, anywhere):
            shutil.rmtree(folder)
    assert values["none"][1] < values["none"][0] - SAME
    assert values[isolating][1] == pytest.approx(values[isolating][0], abs=SAME)
    record(
        f"keeps_weights ({isolating})",
        tries=tries("keeps_weights"),
        undefended="the second trial goes on from the first one's weights: "
        f"{values['none'][1]:.3f} instead of {values['none'][0]:.3f} bits per byte",
        defended="nothing is found",
    )


# --- What one box says to the next ---------------------------------------------------------------


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of many files that every box may read, as it may those of the system."""
    folder = tmp_path / "shared"
    folder.mkdir()
    for number in range(30 * SEQ_LEN * 5 + 1):
        (folder / f"{number:05}").touch()
    furnish = BoxSupply._furnish

    def furnish_more(supply: BoxSupply, *arguments: Any) -> Box:
        box = furnish(supply, *arguments)
        return dataclasses.replace(box, readable=(*box.readable, folder))

    monkeypatch.setattr(BoxSupply, "_furnish", furnish_more)
    return folder


@pytest.fixture
def find_no_note(
    measure: Measure, isolating: str, record: Record, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Check that what box 2 leaves for box 3 is found in no sandbox."""

    def check(attack: str, **constants: Any) -> None:
        source = source_of(attack, **constants)
        # A second box that learns from what it is asked is found out whether or not it can tell
        # the third. Here it is to be the sandbox that keeps them apart.
        monkeypatch.setattr(runner_module, "_MOST_REPEATED", 0)
        undefended = measure(source, "none", least_bpb=0.0)
        if b"no hint" in undefended.log or b"no version" in undefended.log:
            pytest.skip(f"this file system has no place for the note: {undefended.log!r}")
        assert undefended.outcome is Outcome.COMPLETE
        measurement = measure(source, isolating, least_bpb=0.0)
        record(
            f"{attack} ({isolating})",
            tries=tries(attack),
            undefended=in_words(undefended),
            defended=in_words(measurement),
        )
        assert measurement.outcome is Outcome.REJECTED
        assert "the model reads the next token" in measurement.reason

    return check


def test_note_in_a_file_is_not_found(find_no_note: Callable[..., None], tmp_path: Path) -> None:
    places = [str(tmp_path / "anywhere")]
    os.mkdir(places[0])
    find_no_note("leaves_a_note", PLACES=places)


@pytest.mark.slow
def test_note_in_write_hints_is_not_found(find_no_note: Callable[..., None], shared: Path) -> None:
    find_no_note("leaves_write_hints", FOLDER=str(shared))


@pytest.mark.slow
def test_note_in_file_versions_is_not_found(
    find_no_note: Callable[..., None], shared: Path
) -> None:
    find_no_note("leaves_file_versions", FOLDER=str(shared))


# --- Our own process -----------------------------------------------------------------------------


def test_edited_file_is_text_to_us(tmp_path: Path, record: Record) -> None:
    marker = tmp_path / "marker"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.0)
        text = source_of(
            "has_side_effects", MARKER=str(marker), PORT=server.getsockname()[1]
        ).rpartition(HONEST)[2]
        target = tmp_path / "train.py"
        target.write_text(text)

        objective = TrainScriptObjective(target, sandbox="none", profile="cpu")
        study = optuna.create_study()
        objective.enqueue_baseline(study)
        script = Script(text)
        rendered = script.render({"LEARNING_RATE": 0.1})
        assert "LEARNING_RATE = 0.1" in rendered
        assert normalised_hash(rendered) != normalised_hash(text)
        objective.close()
        assert not marker.exists()
        with pytest.raises(BlockingIOError):
            server.accept()

        subprocess.run([sys.executable, str(target)], check=True)
        assert marker.read_text() == "imported"
        server.settimeout(10.0)
        server.accept()[0].close()
    record(
        "has_side_effects",
        tries=tries("has_side_effects"),
        undefended="an import runs it",
        defended="reading, rendering, hashing and queueing an edit do not",
    )


def nats_in_process(prepared: Prepared, folder: Path, source: str) -> float:
    """The loss by an evaluator in the process of the script."""
    (folder / "frozen_env").mkdir()
    for path in supply._FROZEN_ENV.glob("*.py"):
        shutil.copyfile(path, folder / "frozen_env" / path.name)
    (folder / "script.py").write_text(source)
    val = str(prepared.private / "val.bin")
    program = [sys.executable, "-I", str(SCORING / "_in_process.py")]
    answer = subprocess.run(
        [*program, str(folder), str(folder / "script.py"), val],
        env={
            "ARRL_PROFILE": json.dumps(dataclasses.asdict(TINY)),
            "ARRL_DATA": str(prepared.folder),
        },
        capture_output=True,
        check=True,
    )
    nats: float = json.loads(answer.stdout)["nats"]
    return nats


@pytest.mark.slow
def test_patched_torch_and_time_reach_no_score(
    measure: Measure,
    prepared: Prepared,
    tmp_path: Path,
    sandbox: str,
    honest_bpb: float,
    record: Record,
) -> None:
    source = source_of("patches_torch")
    in_process = nats_in_process(prepared, tmp_path, source)
    assert in_process < 0.001
    measurement = measure(source, sandbox)
    assert measurement.val_bpb == pytest.approx(honest_bpb, abs=SAME)
    record(
        "patches_torch",
        tries=tries("patches_torch"),
        undefended=f"an evaluator in its process finds a loss of {in_process:.4f} nats",
        defended=in_words(measurement),
    )


@pytest.mark.slow
def test_patched_launcher_is_but_a_model_that_leaks(
    measure: Measure,
    sandbox: str,
    honest_bpb: float,
    monkeypatch: pytest.MonkeyPatch,
    record: Record,
) -> None:
    source = source_of("patches_the_launcher")
    with monkeypatch.context() as patch:
        patch.setattr(Leak, "reason", None)
        patch.setattr(Leak, "profit", 0.0)
        undefended = measure(source, sandbox, least_bpb=0.0)
    assert undefended.val_bpb < honest_bpb - 0.1
    measurement = measure(source, sandbox, least_bpb=0.0)
    assert measurement.outcome is Outcome.REJECTED
    assert "the model reads the next token" in measurement.reason
    record(
        "patches_the_launcher",
        tries=tries("patches_the_launcher"),
        undefended=in_words(undefended),
        defended=in_words(measurement),
    )
