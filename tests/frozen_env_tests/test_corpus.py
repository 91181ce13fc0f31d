from __future__ import annotations

import hashlib
import lzma
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
import pytest

import optuna_arrl
from optuna_arrl.frozen_env.corpus import CorpusError
from optuna_arrl.frozen_env.corpus import embedded_corpus
from optuna_arrl.frozen_env.corpus import folder_corpus
from optuna_arrl.frozen_env.tokenizer import Tokenizer


def packed() -> list[tuple[str, str]]:
    """(name, text) of every address as it is shipped, in order of name."""
    path = Path(optuna_arrl.__file__).parent / "_data" / "sotu.txt.xz"
    parts = lzma.decompress(path.read_bytes()).decode("utf-8").split("\f")[1:]
    return [(name, text.strip()) for name, text in (part.split("\n", 1) for part in parts)]


def test_shipped_text_is_the_recorded_one() -> None:
    joined = "\n\n".join(text for _, text in packed())
    assert hashlib.sha256(joined.encode("utf-8")).hexdigest() == (
        "5cb26a396719dcce29a3cfaf16ea59e69fabd2c9661d0dd4801c54319074e429"
    )


def test_every_sixteenth_year_validates_and_another_sixteenth_tests() -> None:
    corpus = embedded_corpus()
    by_year: dict[str, list[str]] = {}
    for name, text in packed():
        by_year.setdefault(name[:4], []).append(text)
    years = list(by_year)
    assert years == sorted(years)
    validation = [text for year in years[7::16] for text in by_year[year]]
    test = [text for year in years[15::16] for text in by_year[year]]
    assert list(corpus.validation) == validation
    assert list(corpus.test) == test
    assert len(corpus.train) == 249 - len(validation) - len(test)
    assert not set(corpus.train) & {*validation, *test}
    assert sum(len(text.encode()) for text in validation) == 810_183


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(32):
        (tmp_path / f"{number:02}.txt").write_text(f"document {number}")
    (tmp_path / "notes.md").write_text("not a document")
    return tmp_path


def test_folder_is_split_by_file_in_order_of_name(folder: Path) -> None:
    corpus = folder_corpus(folder)
    assert corpus.validation == ("document 7", "document 23")
    assert corpus.test == ("document 15", "document 31")
    assert len(corpus.train) == 28


def test_folder_with_too_few_files_is_refused(folder: Path) -> None:
    for number in range(15, 32):
        (folder / f"{number:02}.txt").unlink()
    with pytest.raises(CorpusError, match=r"holds 15 \.txt files; at least 16 are needed"):
        folder_corpus(folder)


def test_file_that_is_not_utf_8_is_named(folder: Path) -> None:
    (folder / "03.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(CorpusError, match=r"03\.txt is not UTF-8"):
        folder_corpus(folder)


def test_folder_of_empty_files_is_refused(folder: Path) -> None:
    for file in folder.glob("*.txt"):
        file.write_text("")
    with pytest.raises(CorpusError, match="are empty"):
        folder_corpus(folder)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["the cat sat on the mat, the cat sat on the hat " * 20], 265)


def test_vocabulary_has_the_size_asked_for(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == len(tokenizer.token_bytes) == 265
    assert tokenizer.separator == 264


@given(st.text())
def test_tokens_carry_every_byte_of_any_text_once(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode([text])
    assert tokens[0] == tokenizer.separator
    assert tokenizer.token_bytes[tokens].sum() == len(text.encode())
    assert tokenizer.decode(tokens.tolist()) == text


def test_bytes_of_half_a_character_are_its_own_bytes(tokenizer: Tokenizer) -> None:
    # Decoding and encoding again would make three bytes of each: the replacement character.
    tokens = tokenizer.encode(["é"])[1:]
    assert tokenizer.token_bytes[tokens].tolist() == [1, 1]


def test_saved_tokenizer_encodes_alike(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    text = ["the cat sat", "naïve Ωmega"]
    assert again.encode(text).tolist() == tokenizer.encode(text).tolist()
    assert again.token_bytes.tolist() == tokenizer.token_bytes.tolist()
