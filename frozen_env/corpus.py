"""Documents, and which of them train, validate and test.

The embedded corpus is split by year, never by document: eleven years have several texts, some of
them near-duplicates (1945-Roosevelt-2 is the radio version of -1).
"""

from __future__ import annotations

from dataclasses import dataclass
import itertools
import lzma
from pathlib import Path


__all__ = ["Corpus", "CorpusError", "embedded_corpus", "embedded_corpus_file", "folder_corpus"]

_EMBEDDED = Path(__file__).parents[1] / "_data" / "sotu.txt.xz"
_EMBEDDED_IN_CHECKOUT = Path(__file__).parents[1] / "optuna_arrl" / "_data" / "sotu.txt.xz"
_PERIOD = 16
_VALIDATION_INDEX = 7
_TEST_INDEX = 15


class CorpusError(ValueError):
    """The folder holds nothing to train or to validate on."""


@dataclass(frozen=True)
class Corpus:
    """Documents of the three splits. ``name`` identifies the source in manifests."""

    name: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def _split(name: str, groups: list[list[str]]) -> Corpus:
    splits: tuple[list[str], list[str], list[str]] = ([], [], [])
    for index, documents in enumerate(groups):
        which = {_VALIDATION_INDEX: 1, _TEST_INDEX: 2}.get(index % _PERIOD, 0)
        splits[which].extend(documents)
    return Corpus(name, tuple(splits[0]), tuple(splits[1]), tuple(splits[2]))


def embedded_corpus_file() -> Path:
    """Where the embedded corpus lies, compressed; no box may see it."""
    return _EMBEDDED if _EMBEDDED.is_file() else _EMBEDDED_IN_CHECKOUT


def embedded_corpus() -> Corpus:
    """State of the Union addresses 1790-2026; every 16th year validates, another 16th tests."""
    text = lzma.decompress(embedded_corpus_file().read_bytes()).decode("utf-8")
    documents = [part.split("\n", 1) for part in text.split("\f")[1:]]
    by_year = itertools.groupby(documents, key=lambda document: document[0][:4])
    return _split("sotu-v1", [[body.strip() for _, body in group] for _, group in by_year])


def folder_corpus(folder: Path) -> Corpus:
    """A user's own ``.txt`` files, one document each, split by file in order of name.

    Raises:
        CorpusError: Fewer than 16 files, a file that is not UTF-8, or no ``.txt`` file at all.
    """
    files = sorted(p for p in folder.rglob("*.txt") if p.is_file())
    if len(files) < _PERIOD:
        raise CorpusError(
            f"{folder} holds {len(files)} .txt files; at least {_PERIOD} are needed, "
            "because every 16th validates and another 16th tests: split the text into more files."
        )
    groups = []
    for file in files:
        try:
            groups.append([file.read_text(encoding="utf-8").strip()])
        except UnicodeDecodeError as e:
            raise CorpusError(f"{file} is not UTF-8 text: convert it or take it away.") from e
    corpus = _split(f"folder:{folder.resolve().name}", groups)
    if not any(corpus.train) or not any(corpus.validation):
        raise CorpusError(f"The .txt files of {folder} are empty: put text into them.")
    return corpus
