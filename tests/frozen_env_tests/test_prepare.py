from __future__ import annotations

import dataclasses
from pathlib import Path
import stat

import numpy as np
import pytest

from optuna_arrl.frozen_env import prepare as module
from optuna_arrl.frozen_env.corpus import CorpusError
from optuna_arrl.frozen_env.evaluation import validation_windows
from optuna_arrl.frozen_env.prepare import FrozenSetChanged
from optuna_arrl.frozen_env.prepare import prepare
from optuna_arrl.frozen_env.prepare import Prepared
from optuna_arrl.frozen_env.profiles import Profile
from optuna_arrl.frozen_env.profiles import PROFILES
from optuna_arrl.frozen_env.tokenizer import Tokenizer


SMALL = dataclasses.replace(PROFILES["cpu"], vocab_size=280, seq_len=16, eval_tokens=64)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(32):
        (folder / f"{number:02}.txt").write_text(f"{number} men went to mow a meadow. " * 20)
    return folder


@pytest.fixture
def prepared(corpus: Path, tmp_path: Path) -> Prepared:
    return prepare(SMALL, corpus=corpus, cache=tmp_path / "cache")


def test_second_call_makes_nothing_again(
    prepared: Prepared, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*arguments: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(module, "_write", write)
    assert prepare(SMALL, corpus=corpus, cache=tmp_path / "cache") == prepared


def test_texts_of_the_user_are_secret_too(
    prepared: Prepared, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = prepare(SMALL, corpus=corpus.relative_to(tmp_path), cache=tmp_path / "cache")
    assert named.secrets == (prepared.root / "private", corpus)


def test_other_text_gets_a_folder_of_its_own(
    prepared: Prepared, corpus: Path, tmp_path: Path
) -> None:
    (corpus / "00.txt").write_text("something else " * 40)
    other = prepare(SMALL, corpus=corpus, cache=tmp_path / "cache")
    assert other.root != prepared.root
    prepared.verify()


def test_what_no_box_may_read_is_closed_to_others_and_not_in_the_visible_folder(
    prepared: Prepared,
) -> None:
    assert stat.S_IMODE(prepared.private.stat().st_mode) == 0o700
    assert {p.name for p in prepared.folder.iterdir()} == {"train.bin", "tokenizer.json"}
    assert {p.name for p in prepared.private.iterdir()} == {"val.bin", "test.bin"}


@pytest.mark.parametrize(
    "name",
    ["visible/train.bin", "visible/tokenizer.json", "private/val.bin", "private/test.bin"],
)
def test_changed_file_is_noticed_named_and_made_again(
    prepared: Prepared, corpus: Path, tmp_path: Path, name: str
) -> None:
    path = prepared.root / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(FrozenSetChanged, match=path.name):
        prepared.verify()
    prepare(SMALL, corpus=corpus, cache=tmp_path / "cache").verify()
    assert path.read_bytes() == content


def test_folder_that_another_worker_made_meanwhile_is_kept(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, made = module._write, []

    def overtaken(folder: Path, *arguments: object) -> None:
        monkeypatch.setattr(module, "_write", write)
        made.append(prepare(SMALL, corpus=corpus, cache=tmp_path / "cache"))
        made.append(made[0].root.stat().st_ino)
        write(folder, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_write", overtaken)
    ours = prepare(SMALL, corpus=corpus, cache=tmp_path / "cache")
    assert ours == made[0]
    assert ours.root.stat().st_ino == made[1]
    assert [p for p in (tmp_path / "cache").iterdir() if p != ours.root] == []


def test_unknown_profile_and_missing_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Unknown profile 'tpu': choose one of cpu, gpu"):
        prepare("tpu", cache=tmp_path)
    with pytest.raises(CorpusError, match="is not a folder"):
        prepare(SMALL, corpus=tmp_path / "nowhere", cache=tmp_path)


def test_text_too_small_for_the_vocabulary_is_refused(corpus: Path, tmp_path: Path) -> None:
    large: Profile = dataclasses.replace(SMALL, vocab_size=4096)
    with pytest.raises(CorpusError, match="tokens instead of 4096"):
        prepare(large, corpus=corpus, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_windows_are_disjoint_pieces_of_the_validation_text(prepared: Prepared) -> None:
    tokens = np.fromfile(prepared.private / "val.bin", dtype=np.uint16)
    windows = validation_windows(prepared)
    assert windows.inputs.shape == windows.targets.shape == (4, 16)  # 64 tokens in windows of 16
    text = tokens.tolist()
    starts = [i for i in range(0, len(text) - 16, 16)]
    found = [s for s in starts for w in windows.inputs.tolist() if text[s : s + 16] == w]
    assert starts[0] in found and len(found) >= 4
    assert windows.targets[:, :-1].tolist() == windows.inputs[:, 1:].tolist()
    token_bytes = Tokenizer.load(prepared.folder / "tokenizer.json").token_bytes
    assert windows.target_bytes.tolist() == token_bytes[windows.targets].tolist()
