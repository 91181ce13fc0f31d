from __future__ import annotations

from collections.abc import Callable
import dataclasses
import json
import math
import os
from pathlib import Path
import shutil
import tempfile
import threading
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import psutil
import pytest
from safetensors.torch import load_file
from safetensors.torch import save_file
from tiny import HONEST
from tiny import honest_but
from tiny import SEQ_LEN
import torch

from optuna_arrl.frozen_env.prepare import Prepared
from optuna_arrl.frozen_env.tokenizer import Tokenizer
from optuna_arrl.objective import runner as runner_module
from optuna_arrl.objective import weights as weights_module
from optuna_arrl.objective.boxes import MachineFault
from optuna_arrl.objective.boxes import SupervisedBox
from optuna_arrl.objective.curve import Curve
from optuna_arrl.objective.runner import Measurement
from optuna_arrl.objective.runner import TrialRunner
from optuna_arrl.trajectory import Outcome


TinyWith = Callable[..., Prepared]
StartBox = Callable[..., SupervisedBox]
AssertGone = Callable[[psutil.Process], None]

END_OF_TRAINING = "        report(step, loss.item())\n"
LOOP = "for step, (inputs, targets) in zip(range(60), batches(8)):"


@pytest.fixture(autouse=True)
def trial_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Trials make their folders here, and leave none."""
    folder = tmp_path / "trials"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def bits_per_byte_by_hand(prepared: Prepared, weights: dict[str, torch.Tensor]) -> float:
    """The honest script's model on the whole validation text, straight from the definition."""
    tokenizer = Tokenizer.load(prepared.folder / "tokenizer.json")
    tokens = np.fromfile(prepared.private / "val.bin", dtype=np.uint16).astype(np.int64)
    embedding = weights["embedding.weight"].double().numpy()
    head = weights["head.weight"].double().numpy()
    bits = n_bytes = 0.0
    for start in range(0, len(tokens) - SEQ_LEN, SEQ_LEN + 1):
        window, targets = tokens[start : start + SEQ_LEN], tokens[start + 1 : start + SEQ_LEN + 1]
        for position, target in enumerate(targets):
            x = embedding[window[: position + 1]]
            p = np.exp(head @ (x[-1] + x.mean(axis=0)))
            if target != tokenizer.separator:
                bits -= math.log2(p[target] / p.sum())
                n_bytes += int(tokenizer.token_bytes[target])
    return bits / n_bytes


def test_score_of_an_honest_script_is_that_of_the_weights_it_left(
    tiny_prepared: Prepared,
    tmp_path: Path,
    trial_folders: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = tmp_path / "kept.safetensors"
    monkeypatch.setattr(runner_module, "check_finite", lambda path: shutil.copyfile(path, kept))
    source = HONEST + "    print('val_bpb: 0.1')\n"
    measurement = TrialRunner(tiny_prepared).run(source, seed=3)
    expected = bits_per_byte_by_hand(tiny_prepared, load_file(kept))
    assert measurement.outcome is Outcome.COMPLETE
    assert measurement.val_bpb == pytest.approx(expected, abs=1e-4)
    assert measurement.reason == ""
    assert b"val_bpb: 0.1" in measurement.log
    assert measurement.leak is not None and measurement.leak["changed"] == 0
    assert measurement.sandbox in ("bubblewrap", "landlock")
    assert measurement.isolated is True
    assert measurement.peak_memory_bytes > 50 << 20
    parts = {"start", "train", "save", "score_start", "score", "probe_start", "probe"}
    assert set(measurement.seconds) == parts | {"total"}
    assert sum(measurement.seconds[part] for part in parts) < measurement.seconds["total"]
    assert not list(trial_folders.iterdir())
    json.dumps([measurement.seconds, measurement.leak, measurement.curve])  # as it is stored


def test_bfloat16_model_completes(tiny_prepared: Prepared) -> None:
    source = honest_but("return Model()", "return Model().to(torch.bfloat16)")
    measurement = TrialRunner(tiny_prepared).run(source)
    assert (measurement.outcome, measurement.reason) == (Outcome.COMPLETE, "")


ENDINGS: dict[str, tuple[str, str, dict[str, Any], Outcome, str]] = {
    "raises": (
        END_OF_TRAINING,
        "        raise RuntimeError('mat1 and mat2\\x1b do not fit')\n",
        {},
        Outcome.CRASH,
        "RuntimeError: mat1 and mat2? do not fit",
    ),
    "is not Python": (
        "def build_model():",
        "def build_model(:",
        {},
        Outcome.CRASH,
        "SyntaxError: invalid syntax",
    ),
    "ends the process": (
        END_OF_TRAINING,
        "        import os; os._exit(0)\n",
        {},
        Outcome.CRASH,
        "it ended without leaving a model.safetensors",
    ),
    "is killed": (
        END_OF_TRAINING,
        "        import os; os.kill(os.getpid(), 9)\n",
        {},
        Outcome.CRASH,
        "it was killed by SIGKILL",
    ),
    "ignores clock and signals": (
        END_OF_TRAINING,
        "        import signal\n"
        "        signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "        while True: pass\n",
        {"budget_seconds": 1.0},
        Outcome.TIMEOUT,
        "training had not ended after 1.0 s",
    ),
    "cannot allocate": (
        END_OF_TRAINING,
        "        bytearray(1 << 60)\n",
        {},
        Outcome.OOM,
        "MemoryError",
    ),
    "takes too much memory": (
        END_OF_TRAINING,
        "        hoard = bytearray(b'x') * (2 << 30)\n",
        {"memory_bytes": 1 << 30},
        Outcome.OOM,
        "it took more than 1024 MiB of memory",
    ),
    "starts too many processes": (
        END_OF_TRAINING,
        "        import signal, subprocess\n"
        "        for _ in range(200): subprocess.Popen(['sleep', '1000'])\n"
        "        signal.pause()\n",
        {},
        Outcome.CRASH,
        "it started more than 128 processes",
    ),
    "writes too much": (
        END_OF_TRAINING,
        "        import signal\n"
        "        for i in range(8): open(f'{i}', 'wb').write(bytes(4 << 20))\n"
        "        signal.pause()\n",
        {"disk_bytes": 16 << 20},
        Outcome.CRASH,
        "it wrote more than 16 MiB of files",
    ),
    "prints too much": (
        END_OF_TRAINING,
        "        import os, signal\n"
        "        for _ in range(80): os.write(1, bytes(1 << 20))\n"
        "        signal.pause()\n",
        {},
        Outcome.CRASH,
        "it printed more than 64 MiB",
    ),
    "diverges": (
        END_OF_TRAINING,
        "        model.head.weight.data[0, 0] = float('nan')\n",
        {},
        Outcome.CRASH,
        "the trained weights are not finite: embedding.weight",
    ),
    "leaves a link": (
        "def build_model():",
        "def build_model():\n"
        "    import os\n"
        "    os.symlink('elsewhere', 'model.safetensors')\n"
        "    os._exit(0)",
        {},
        Outcome.CRASH,
        "its model.safetensors is not a regular file",
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_ending_of_training_is_an_outcome_with_a_reason(
    tiny_with: TinyWith, ending: str, trial_folders: Path
) -> None:
    old, new, profile, outcome, reason = ENDINGS[ending]
    measurement = TrialRunner(tiny_with(**profile)).run(honest_but(old, new))
    assert (measurement.outcome, measurement.reason) == (outcome, reason)
    assert measurement.val_bpb is None
    assert "train" in measurement.seconds and "score" not in measurement.seconds
    assert not list(trial_folders.iterdir())


WHEN_SCORED: dict[str, tuple[str, dict[str, Any], Outcome, str]] = {
    "logits not finite": (
        "return self.head(x) + (0.0 if self.training else float('inf'))",
        {},
        Outcome.CRASH,
        "the model answered with logits that are not finite",
    ),
    "logits of another shape": (
        "return self.head(x) if self.training else self.head(x)[..., 1:]",
        {},
        Outcome.CRASH,
        "one row of VOCAB_SIZE = 300 logits is needed for each token",
    ),
    "raises": (
        "assert self.training, 'not now'; return self.head(x)",
        {},
        Outcome.CRASH,
        "AssertionError: not now",
    ),
    "too slow": (
        "import time; self.training or time.sleep(3600); return self.head(x)",
        {"score_seconds": 1.0},
        Outcome.TIMEOUT,
        "scoring had not ended after 1 s",
    ),
    "reads the next token": (
        "return self.head(x + self.embedding(ids.roll(-1, 1)))",
        {},
        Outcome.REJECTED,
        "the model reads the next token: at ",
    ),
}


@pytest.mark.parametrize("case", WHEN_SCORED)
def test_what_a_model_does_when_scored_is_an_outcome_with_a_reason(
    tiny_with: TinyWith, case: str
) -> None:
    forward, profile, outcome, reason = WHEN_SCORED[case]
    source = honest_but("return self.head(x + self.context(x))", forward)
    measurement = TrialRunner(tiny_with(**profile)).run(source)
    assert measurement.outcome is outcome
    assert reason in measurement.reason
    assert measurement.val_bpb is None
    assert (measurement.leak is not None) == (outcome is Outcome.REJECTED)


def test_missing_mask_is_rejected_with_its_profit(tiny_prepared: Prepared) -> None:
    source = honest_but(
        "return x.cumsum(1) / torch.arange(1, x.size(1) + 1)[None, :, None]",
        "return x.mean(1, keepdim=True)",
    )
    measurement = TrialRunner(tiny_prepared).run(source)
    assert measurement.outcome is Outcome.REJECTED
    assert measurement.leak is not None
    assert measurement.leak["probed"] == 64
    assert measurement.leak["changed"] > 0


@pytest.mark.parametrize(("best_so_far", "probed"), [(None, 64), (1.0, 64), (7.0, 32 * 64)])
def test_score_that_would_be_the_best_is_probed_more_densely(
    tiny_prepared: Prepared, best_so_far: float | None, probed: int
) -> None:
    # The honest score is about 3.5.
    measurement = TrialRunner(tiny_prepared).run(HONEST, best_so_far=best_so_far)
    assert measurement.outcome is Outcome.COMPLETE
    assert measurement.leak is not None
    assert measurement.leak["probed"] == probed


def test_workers_may_load_data(tiny_prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)  # the name of a socket may not be long
    source = honest_but(
        "def train(model):\n",
        "class Numbers(torch.utils.data.Dataset):\n"
        "    def __len__(self):\n"
        "        return 100\n\n"
        "    def __getitem__(self, index):\n"
        "        return torch.tensor(index)\n\n\n"
        "def train(model):\n"
        "    loader = torch.utils.data.DataLoader(Numbers(), batch_size=10, num_workers=2)\n"
        "    print('sum:', sum(int(batch.sum()) for batch in loader))\n",
    )
    runner = TrialRunner(tiny_prepared)
    if runner.sandbox.name == "landlock":
        pytest.skip("Landlock has no shared memory: no workers")
    measurement = runner.run(source)
    assert measurement.outcome is Outcome.COMPLETE
    assert b"sum: 4950" in measurement.log


def test_script_with_room_for_a_text_is_an_invalid_edit(tiny_prepared: Prepared) -> None:
    source = HONEST + f"# {'x' * (64 << 10)}\n"
    measurement = TrialRunner(tiny_prepared).run(source)
    assert measurement.outcome is Outcome.INVALID_EDIT
    assert measurement.reason == "the script has more than 64 KiB, room to hide text in"
    assert "train" not in measurement.seconds


def test_score_that_nobody_can_reach_is_rejected(tiny_prepared: Prepared) -> None:
    # The honest score is about 3.5.
    manifest = {**tiny_prepared.manifest, "least_bpb": 5.0}
    measurement = TrialRunner(dataclasses.replace(tiny_prepared, manifest=manifest)).run(HONEST)
    assert measurement.outcome is Outcome.REJECTED
    assert measurement.val_bpb is None
    assert "bits per byte is less than a model can reach" in measurement.reason
    assert "probe" not in measurement.seconds


def test_model_that_does_other_things_before_it_answers_is_a_timeout(
    tiny_prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "_ANSWER_SHARE", 0.0)
    asked = []
    ask_once = runner_module._Trial._ask_once

    def count(trial: runner_module._Trial, *args: Any) -> Any:
        asked.append(args[0])
        return ask_once(trial, *args)

    monkeypatch.setattr(runner_module._Trial, "_ask_once", count)
    source = honest_but(
        "    return Model()",
        "    import os, time\n"
        "    if 'ARRL_DATA' not in os.environ:\n"
        "        time.sleep(3600)\n"
        "    return Model()",
    )
    measurement = TrialRunner(tiny_prepared).run(source)
    assert measurement.outcome is Outcome.TIMEOUT
    assert "its model did not answer within 1.0 s" in measurement.reason
    assert asked == ["score", "score"]  # once more, in case the machine was busy


def test_there_is_nothing_to_train_on_where_a_model_is_scored(tiny_prepared: Prepared) -> None:
    source = honest_but(
        "    return Model()",
        "    import os\n"
        "    if 'ARRL_DATA' not in os.environ:\n"
        "        next(batches(1))\n"
        "    return Model()",
    )
    measurement = TrialRunner(tiny_prepared).run(source)
    assert measurement.outcome is Outcome.CRASH
    assert "nothing to train on where a model is scored" in measurement.reason


@pytest.mark.started_ahead
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: nothing starts ahead")
def test_boxes_of_the_next_trial_wait_when_one_has_ended(
    tiny_prepared: Prepared, trial_folders: Path
) -> None:
    runner = TrialRunner(tiny_prepared)
    first = runner.run(HONEST)
    assert len(runner.supply._spares["train"]) == 1
    second = runner.run(HONEST)
    assert (first.outcome, second.outcome) == (Outcome.COMPLETE, Outcome.COMPLETE)
    assert first.val_bpb == pytest.approx(second.val_bpb, abs=0.2)
    runner.close()
    assert not list(trial_folders.iterdir())


def until_the_clock(source: str) -> str:
    return source.replace(LOOP, "for step, (inputs, targets) in enumerate(batches(8)):")


def test_curve_arrives_in_bits_per_byte_and_calls_back_at_multiples_of_five(
    tiny_with: TinyWith,
) -> None:
    marks: list[tuple[int, float]] = []
    threads = set()

    def on_curve(percent: int, bpb: float) -> bool:
        marks.append((percent, bpb))
        threads.add(threading.current_thread())
        return False

    # Lines that are not points, from edited code that has found the pipe, change nothing.
    source = until_the_clock(
        honest_but(
            "    optimizer = torch",
            "    import os, sys\n"
            "    curve = int(sys.argv[4])\n"
            "    os.write(curve, b'nonsense\\n{}\\n' + b'[' * 5000 + b'\\n')\n"
            "    optimizer = torch",
        )
    )
    prepared = tiny_with(budget_seconds=2.0)
    measurement = TrialRunner(prepared).run(source, on_curve=on_curve)
    assert measurement.outcome is Outcome.COMPLETE
    percents = [percent for percent, _ in measurement.curve]
    assert percents == sorted(set(percents))
    assert {percent for percent, _ in marks} <= set(range(5, 101, 5))
    assert {percent for percent, _ in marks} == {p - p % 5 for p in percents if p >= 5}
    assert threads == {threading.current_thread()}
    assert measurement.steps > len(percents)  # a point a percent at most, steps are many more
    # A uniform guess over 300 tokens is where it starts, in nats; less is what it comes to.
    uniform = math.log2(300) / prepared.manifest["train_bytes_per_token"]
    assert 0.0 < measurement.curve[-1][1] < uniform
    assert measurement.seconds["train"] == pytest.approx(2.0 * 0.7)
    assert 0.0 < measurement.seconds["save"] < 2.0 * 0.3


def test_curve_can_stop_a_trial(tiny_prepared: Prepared, trial_folders: Path) -> None:
    # Left alone this would train for 30 s times 0.7.
    runner = TrialRunner(tiny_prepared)
    measurement = runner.run(until_the_clock(HONEST), on_curve=lambda percent, bpb: percent >= 10)
    assert measurement.outcome is Outcome.PRUNED
    assert 10 <= measurement.curve[-1][0] < 100
    assert "score" not in measurement.seconds
    assert not list(trial_folders.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("storage is gone")])
def test_interruption_kills_the_box_and_goes_on_up(
    tiny_prepared: Prepared,
    trial_folders: Path,
    assert_gone: AssertGone,
    error: BaseException,
) -> None:
    tree: list[psutil.Process] = []

    def on_curve(percent: int, bpb: float) -> bool:
        tree.extend(psutil.Process().children(recursive=True))
        raise error

    with pytest.raises(type(error)):
        TrialRunner(tiny_prepared).run(until_the_clock(HONEST), on_curve=on_curve)
    assert len(tree) >= 2  # supervisor, box
    for process in tree:
        assert_gone(process)
    assert not list(trial_folders.iterdir())


def test_changed_data_is_a_fault_of_the_machine(tiny_prepared: Prepared) -> None:
    manifest = json.loads(json.dumps(tiny_prepared.manifest))
    manifest["sha256"]["private/val.bin"] = "0" * 64
    changed = dataclasses.replace(tiny_prepared, manifest=manifest)
    with pytest.raises(MachineFault, match=r"val\.bin"):
        TrialRunner(changed).run(HONEST)


def test_changed_frozen_source_is_a_fault_of_the_machine(
    tiny_prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = TrialRunner(tiny_prepared)
    sources = runner_module.measuring_sources()
    monkeypatch.setattr(
        runner_module,
        "measuring_sources",
        lambda: {**sources, "frozen_env/evaluation.py": "other"},
    )
    with pytest.raises(MachineFault, match=r"frozen_env/evaluation\.py changed"):
        runner.run(HONEST)


def test_folder_that_cannot_be_made_is_a_fault_of_the_machine(
    tiny_prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(MachineFault, match="/nowhere"):
        TrialRunner(tiny_prepared).run(HONEST)


def test_full_disk_is_a_fault_of_the_machine(
    tiny_prepared: Prepared, monkeypatch: pytest.MonkeyPatch, trial_folders: Path
) -> None:
    monkeypatch.setattr(runner_module, "_MIN_FREE_BYTES", 1 << 62)
    with pytest.raises(MachineFault, match="is full"):
        TrialRunner(tiny_prepared).run(HONEST)
    assert not list(trial_folders.iterdir())


def test_memory_limit_below_the_launchers_own_need_is_a_fault_of_the_machine(
    tiny_with: TinyWith,
) -> None:
    with pytest.raises(MachineFault, match="before any edited code ran: raise the limit"):
        TrialRunner(tiny_with(memory_bytes=1 << 20)).run(HONEST)


def test_box_that_is_not_ready_in_time_is_a_fault_of_the_machine(tiny_with: TinyWith) -> None:
    with pytest.raises(MachineFault, match="not ready in time"):
        TrialRunner(tiny_with(start_seconds=0.2)).run(HONEST)


def take(folder: Path, target: Path) -> None:
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        weights_module.take_weights(folder_fd, target, 1 << 30)
    finally:
        os.close(folder_fd)


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_hard_link(path: Path) -> None:
    path.with_name("first").write_bytes(b"x")
    os.link(path.with_name("first"), path)


def make_device_link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_sparse_terabyte(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize(
    "make", [Path.mkdir, make_fifo, make_hard_link, make_device_link, make_sparse_terabyte]
)
def test_only_a_plain_file_of_bounded_size_is_taken_as_weights(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "model.safetensors")
    with pytest.raises(weights_module.BadWeights, match=r"model\.safetensors"):
        take(tmp_path, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_weights_are_copied_read_only(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    take(tmp_path, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"weights"
    assert (tmp_path / "copy").stat().st_mode & 0o222 == 0


@pytest.mark.parametrize("size", [(3 << 20) + 5, 2 << 20])
def test_zeros_that_were_never_written_take_no_space_in_the_copy(
    tmp_path: Path, size: int
) -> None:
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(b"begins")
        file.truncate(size)
    take(tmp_path, tmp_path / "copy")
    weights_module.copy_weights(tmp_path / "copy", tmp_path / "second")
    for name in ("copy", "second"):
        status = (tmp_path / name).stat()
        assert status.st_size == size
        assert status.st_blocks * 512 <= 1 << 20
        assert (tmp_path / name).read_bytes() == b"begins".ljust(size, b"\0")


def test_weights_of_too_many_tensors_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({f"layers.{i}.weight": torch.zeros(0) for i in range(20_000)}, path)
    with pytest.raises(weights_module.BadWeights, match="more than 1 MiB"):
        weights_module.check_finite(path)


FLOATS = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e5m2,
    torch.float8_e4m3fn,
]


@pytest.mark.parametrize("dtype", FLOATS)
def test_weights_that_are_not_finite_are_found_in_every_float_type(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    path = tmp_path / "model.safetensors"
    info = torch.finfo(dtype)
    finite = torch.tensor([[0.0, -1.5], [info.max, info.tiny]], dtype=torch.float64).to(dtype)
    tensors = {"first": torch.arange(3), "empty": torch.zeros(0), "w": finite}
    save_file(tensors, path)
    weights_module.check_finite(path)
    tensors["w"][1, 0] = float("nan")
    save_file(tensors, path)
    with pytest.raises(weights_module.BadWeights, match="not finite: w"):
        weights_module.check_finite(path)


@pytest.mark.parametrize(
    "data", [b"", b"\xff" * 8, b"\x02\x00\x00\x00\x00\x00\x00\x00{}x", b"\x80\x04pickle."]
)
def test_broken_weights_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(weights_module.BadWeights, match="cannot be read"):
        weights_module.check_finite(path)


def points(chunks: list[bytes]) -> list[tuple[int, float]]:
    curve = Curve(bytes_per_token=2.0)
    return [point for chunk in chunks for point in curve.add(chunk)]


def test_curve_points_are_bits_per_byte() -> None:
    # 4 ln 2 nats per token are 4 bits per token; a token is 2 bytes.
    line = json.dumps({"step": 7, "percent": 5, "loss": 4 * math.log(2)}).encode() + b"\n"
    assert points([line[:9], line[9:]]) == [(5, pytest.approx(2.0))]


@pytest.mark.parametrize(
    "line",
    [
        b'{"step": 8, "percent": 5, "loss": 1.0}',  # percent does not ascend
        b'{"step": 8, "percent": 101, "loss": 1.0}',
        b'{"step": 8, "percent": 6.0, "loss": 1.0}',
        b'{"step": true, "percent": 6, "loss": 1.0}',
        b'{"step": 8, "percent": 6, "loss": NaN}',
        b'{"step": 8, "percent": 6, "loss": -1.0}',
        b'{"step": 8, "percent": 6, "loss": 1e999}',
        b'{"step": 8, "percent": 6, "loss": "1"}',
        b'{"step": 8, "percent": 6, "loss": 1' + b"0" * 400 + b"}",
        b'{"step": 1' + b"0" * 20 + b', "percent": 6, "loss": 1.0}',
        b'{"step": 8, "percent": 6, "loss": 1.0' + b" " * 600 + b"}",
        b'{"step": 8, "percent": 6}',
        b"[" * 500,
        b"\xff\xfe",
    ],
)
def test_curve_lines_that_are_not_points_are_ignored(line: bytes) -> None:
    good = b'{"step": 7, "percent": 5, "loss": 1.0}\n'
    after = b'{"step": 9, "percent": 10, "loss": 1.0}\n'
    assert [percent for percent, _ in points([good, line + b"\n", after])] == [5, 10]
    assert [percent for percent, _ in points([good + line + b"\n" + after])] == [5, 10]


@given(st.lists(st.binary(max_size=700)))
def test_no_bytes_on_the_curve_pipe_can_break_the_curve(chunks: list[bytes]) -> None:
    found = points([*chunks, b'\n{"step": 9, "percent": 100, "loss": 1.0}\n'])
    assert found[-1][0] == 100
    assert all(math.isfinite(bpb) for _, bpb in found)


def test_endless_line_on_the_curve_pipe_is_not_kept() -> None:
    curve = Curve(bytes_per_token=2.0)
    for _ in range(100):
        assert curve.add(b"x" * 65536) == []
    assert len(curve._rest) < 1024


def test_flood_on_the_curve_pipe_is_not_read_to_its_end(start_box: StartBox) -> None:
    code = """
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    while True:
        os.write(curve[0], b"x" * 65536)
    """
    with start_box(code, curve=True, run_seconds=1.0) as box:
        box.wait_until_handed_over()
        taken = sum(len(chunk) for chunk in box.curve_chunks())
    assert taken < 2 << 20
    assert box.report().reason == "deadline"


def test_measurements_of_one_runner_do_not_mix_between_threads(tiny_prepared: Prepared) -> None:
    runner = TrialRunner(tiny_prepared)
    results: dict[str, Measurement] = {}

    def measure(word: str) -> None:
        source = honest_but(END_OF_TRAINING, f"        raise ValueError({word!r})\n")
        results[word] = runner.run(source)

    threads = [threading.Thread(target=measure, args=(word,)) for word in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {word: m.reason for word, m in results.items()} == {
        "one": "ValueError: one",
        "two": "ValueError: two",
    }
