"""The commands: wrong input gets a sentence, and what a killed run left is gone on with."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
import sys
from types import ModuleType

import pytest

from benchmarks import _records
from benchmarks import ablations
from benchmarks import retraining
from benchmarks.samplers import __main__ as samplers
from benchmarks.samplers import harness
from benchmarks.samplers import overhead
from benchmarks.samplers import real
from benchmarks.samplers.rivals import CONTENDERS
from benchmarks.samplers.suites import task


def call(monkeypatch: pytest.MonkeyPatch, module: ModuleType, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    module.main()


@pytest.mark.parametrize(
    ("module", "arguments", "sentence"),
    [
        (samplers, "run replay FILE --samplers foo", "no 'foo', only arrl, "),
        (samplers, "run replay FOLDER --samplers tpe", "is a folder: name a file"),
        (samplers, "run replay FILE --samplers tpe --workers 0", "no whole number from 1 on"),
        (samplers, "run replay FILE --samplers tpe --jobs x", "no whole number from 1 on"),
        (samplers, "run replay FILE --samplers tpe --trials 0", "no whole number from 1 on"),
        (samplers, "run replay FILE --samplers tpe --seeds x", "write 0-19 or 3,5"),
        (samplers, "run replay FILE --samplers tpe --seeds 5-3", "the lower one comes first"),
        (
            samplers,
            "run replay FILE --samplers tpe --settings all",
            "name such, as in --seeds 1000-1009",
        ),
        (samplers, "choose replay FILE", "`run --settings all` first"),
        (samplers, "report replay FILE OUT", "holds a study of replay to report: `run` first"),
        (samplers, "report replay,nope FILE OUT", "no 'nope', only replay"),
        (ablations, "run FILE --policy nope", "nope"),
        (ablations, "run FILE --trials 5", "no whole number from 12 on"),
        (ablations, "run FILE --retrained NOWHERE", "`benchmarks.retraining` first"),
        (ablations, "run FILE --seed 999999", "with --tasks 512 it may be 999992 at most"),
        (ablations, "run BAD.gz", "gunzip it, or name another file"),
        (ablations, "report BAD.gz OUT", "is no whole gzip file"),
        (samplers, "run replay BAD.gz --samplers tpe", "gunzip it, or name another file"),
        (overhead, "BAD.gz", "gunzip it, or name another file"),
        (ablations, "run FILE --retrained DAMAGED", "train it again into another folder"),
        (ablations, "run FILE --variants nope", "There is no variant 'nope'"),
        (ablations, "report FILE OUT", "`run` first"),
        (retraining, "FOLDER whole --iterations 0", "no whole number from 1 on"),
        (retraining, "THERE whole", "is a file: name a folder"),
        (overhead, "FILE --samplers foo", "no 'foo', only arrl, "),
        (overhead, "FILE --finished abc", "no whole number from 1 on"),
        (real, "THERE", "is a file: name a folder"),
        (real, "FOLDER --samplers foo", "no 'foo', only arrl, "),
    ],
)
def test_wrong_input_gets_one_sentence(
    module: ModuleType,
    arguments: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "there").touch()
    (tmp_path / "bad.gz").write_bytes(gzip.compress(b'{"seed": 0}\n')[:-9])
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "whole.safetensors").write_bytes(b"neither")
    paths = {
        "BAD.gz": tmp_path / "bad.gz",
        "DAMAGED": tmp_path / "damaged",
        "FILE": tmp_path / "records.jsonl",
        "FOLDER": tmp_path,
        "NOWHERE": tmp_path / "nowhere",
        "OUT": tmp_path / "out",
        "THERE": tmp_path / "there",
    }
    with pytest.raises(SystemExit) as ended:
        call(monkeypatch, module, *(paths.get(word, word) for word in arguments.split()))
    assert sentence in f"{ended.value.code} {capsys.readouterr().err}"


def test_what_a_killed_run_left_of_a_record_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    for seed in range(2):
        _records.append(path, {"seed": seed})
    with path.open("a") as file:
        file.write('{"seed": 2, "tru')
    assert _records.load(path) == [{"seed": 0}, {"seed": 1}]
    _records.append(path, {"seed": 3})
    assert _records.load(path) == [{"seed": 0}, {"seed": 1}, {"seed": 3}]


def test_another_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text('{"seed": 0}\n{"se\n{"seed": 1}\n')
    with pytest.raises(SystemExit, match=r"Line 2 of .* is no record: delete that line"):
        _records.load(path)


def record(setting: str, seed: int, values: list[float | None]) -> dict[str, object]:
    return {
        "task": "replay",
        "sampler": "tpe",
        "setting": setting,
        "seed": seed,
        "workers": 1,
        "version": f"{task('replay').version}; {CONTENDERS['tpe'].version()}",
        "observed": values,
        "truth": values,
        "ask_seconds": 0.0,
        "tell_seconds": 0.0,
    }


def test_gzipped_records_are_read(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"seed": 0}\n{"seed": 1}\n'))
    assert _records.load(path) == [{"seed": 0}, {"seed": 1}]


def test_a_setting_is_chosen_of_complete_studies_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, path = tmp_path / "chosen.json", tmp_path / "records.jsonl"
    monkeypatch.setattr(harness, "CHOSEN_FILE", chosen)
    last = {"failure": 0.99, "worst": 0.98, "failure+constraint": 0.99}
    for setting in ("failure", "worst", "failure+constraint"):
        with pytest.raises(SystemExit, match=r"lacks tpe|holds no study"):
            call(monkeypatch, samplers, "choose", "replay", path)
        assert not chosen.exists()
        _records.append(path, record(setting, 1000, [1.0] * 24 + [last[setting]]))
    call(monkeypatch, samplers, "choose", "replay", path)
    assert json.loads(chosen.read_text())["replay"]["tpe"]["setting"] == "worst"


def test_a_report_counts_a_lengthened_study_once_and_no_selection_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, chosen = tmp_path / "records.jsonl", tmp_path / "chosen.json"
    chosen.write_text('{"replay": {"tpe": {"setting": "worst", "scores": {}, "seeds": [1000]}}}')
    monkeypatch.setattr(harness, "CHOSEN_FILE", chosen)
    _records.append(path, record("worst", 0, [None] * 5 + [0.99] * 20))
    _records.append(path, record("worst", 0, [0.99, None] + [0.99] * 48))
    _records.append(path, record("worst", 1, [0.97] * 50))
    _records.append(path, record("worst", 1, [0.98] * 50) | {"workers": 4})
    _records.append(path, record("failure", 2, [0.5] * 50))
    _records.append(path, record("worst", 1000, [0.5] * 50))
    _records.append(path, record("worst", 3, [0.5] * 50) | {"version": "an older one"})
    call(monkeypatch, samplers, "report", "replay", path, tmp_path / "out")
    assert "2 records are superseded and left out." in capsys.readouterr().out
    result = json.loads((tmp_path / "out.json").read_text())
    tpe = result["workers"]["1"]["samplers"]["tpe"]
    assert (tpe["studies"], tpe["crash share"]) == (2, 0.01)
    for name in ("out.png", "out.workers.png", "out.curves.json.gz"):
        assert (tmp_path / name).stat().st_size > 0


def test_a_report_goes_on_from_what_an_earlier_one_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, out = tmp_path / "first.jsonl", tmp_path / "second.jsonl", tmp_path / "out"
    values = [0.99, None, 0.981234567] + [0.98] * 22
    for seed in range(6):
        _records.append(first, record("failure", seed, values) | {"tell_seconds": 0.5})
    call(monkeypatch, samplers, "report", "replay", first, out)
    version = f"{task('replay').version}; {CONTENDERS['random'].version()}"
    rival = {"sampler": "random", "version": version}
    for seed in range(6):
        _records.append(second, record("failure", seed, [0.97] * 25) | rival)
    # Run again, a study takes the place of the one that was kept.
    _records.append(second, record("failure", 5, [0.96] * 25))
    capsys.readouterr()
    call(monkeypatch, samplers, "report", "replay", second, out)
    assert f"5 studies are those that {out}.curves.json.gz kept." in capsys.readouterr().out
    apart = json.loads(out.with_suffix(".json").read_text())

    for seed in range(5):
        _records.append(second, record("failure", seed, values) | {"tell_seconds": 0.5})
    call(monkeypatch, samplers, "report", "replay", second, tmp_path / "whole")
    together = json.loads((tmp_path / "whole.json").read_text())
    assert apart == together
    assert apart["workers"]["1"]["samplers"]["tpe"]["studies"] == 6


def test_a_report_keeps_what_it_does_not_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "records.jsonl", tmp_path / "with.dot"
    _records.append(path, record("failure", 0, [0.98] * 25))
    curves_file = tmp_path / "with.dot.curves.json.gz"
    call(monkeypatch, samplers, "report", "replay", path, out)
    (study,) = json.loads(gzip.decompress(curves_file.read_bytes()))
    longer = study | {"incumbent": [0.97] * 50}
    stale = study | {"seed": 1, "version": "an older one"}
    elsewhere = study | {"task": "a task of another release"}
    curves_file.write_bytes(gzip.compress(json.dumps([longer, stale, elsewhere]).encode()))
    capsys.readouterr()
    call(monkeypatch, samplers, "report", "replay", path, out)
    told = capsys.readouterr().out
    assert f"1 studies are those that {curves_file} kept." in told
    assert "1 that it keeps are of other versions or settings, and left out." in told
    assert json.loads(gzip.decompress(curves_file.read_bytes())) == [longer, stale, elsewhere]
    means = json.loads((tmp_path / "with.dot.json").read_text())["workers"]["1"]["mean"]
    assert means["replay"]["tpe"]["50"][0] == 0.97
    # Of a study that was run again under today's version the older one goes.
    _records.append(path, record("failure", 1, [0.99] * 25))
    call(monkeypatch, samplers, "report", "replay", path, out)
    kept = json.loads(gzip.decompress(curves_file.read_bytes()))
    assert [s["version"] for s in kept if s["seed"] == 1] == [study["version"]]


def test_a_report_takes_nothing_from_a_file_that_none_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "records.jsonl"
    _records.append(path, record("failure", 0, [1.0] * 25))
    for wrong in (
        b"",
        b"nothing",
        gzip.compress(b"[]")[:-9] + b"x" * 9,
        gzip.compress(b'[{"task": "replay"}]'),
    ):
        (tmp_path / "out.curves.json.gz").write_bytes(wrong)
        with pytest.raises(SystemExit, match="is not what `report` writes: delete it"):
            call(monkeypatch, samplers, "report", "replay", path, tmp_path / "out")
        assert (tmp_path / "out.curves.json.gz").read_bytes() == wrong
