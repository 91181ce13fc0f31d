"""Make the files a study needs from a corpus: tokens, tokenizer, and what no box may see.

Layout of a prepared folder::

    <cache>/<corpus>-<profile>-<hash>/
        visible/train.bin        uint16 tokens of the training split
        visible/tokenizer.json
        private/val.bin          0700: the scorer's only
        private/test.bin         0700: for a final report only
        manifest.json            sha256 of each
"""

from __future__ import annotations

from dataclasses import dataclass
import hashlib
import json
import lzma
import os
from pathlib import Path
import shutil
import tempfile
from typing import Any

from .corpus import Corpus
from .corpus import CorpusError
from .corpus import embedded_corpus
from .corpus import folder_corpus
from .profiles import Profile
from .profiles import PROFILES
from .tokenizer import Tokenizer


__all__ = [
    "FrozenSetChanged",
    "Prepared",
    "default_cache",
    "find_prepared",
    "frozen_sources",
    "prepare",
]

_FORMAT = 2
# No model that has not seen the validation text reaches this share of what a strong compressor
# makes of it.
_LEAST_SHARE = 0.25
_FILES = ("visible/train.bin", "visible/tokenizer.json", "private/val.bin", "private/test.bin")


class FrozenSetChanged(RuntimeError):
    """A file that no edit may touch is not what it was."""


@dataclass(frozen=True)
class Prepared:
    """A prepared corpus.

    Attributes:
        root: The folder that holds everything.
        profile: The sizes it was prepared for.
        manifest: ``corpus``, ``sha256`` (file → hex), ``train_tokens``,
            ``train_bytes_per_token``, ``least_bpb`` (no score below it is believed).
        corpus: Folder of the user's texts; :obj:`None` for the embedded corpus.
    """

    root: Path
    profile: Profile
    manifest: dict[str, Any]
    corpus: Path | None = None

    @property
    def folder(self) -> Path:
        """What a box may read: ``train.bin`` and ``tokenizer.json``."""
        return self.root / "visible"

    @property
    def private(self) -> Path:
        """What no box may read: ``val.bin`` and ``test.bin``."""
        return self.root / "private"

    @property
    def secrets(self) -> tuple[Path, ...]:
        """Folders that no box may read: :attr:`private`, and the user's own texts."""
        return (self.private,) if self.corpus is None else (self.private, self.corpus)

    def verify(self) -> None:
        """Compare every file with the manifest.

        Raises:
            FrozenSetChanged: A file is missing or differs; the message names it.
        """
        for name, expected in self.manifest["sha256"].items():
            path = self.root / name
            if not path.is_file() or _sha256(path) != expected:
                raise FrozenSetChanged(
                    f"{path} is not the file that was prepared: delete {self.root} "
                    "and run `arrl prepare` again."
                )


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/optuna-arrl``, or ``~/.cache/optuna-arrl``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "optuna-arrl"


def frozen_sources() -> dict[str, str]:
    """File name → sha256 of every source file of the frozen environment."""
    return {p.name: _sha256(p) for p in sorted(Path(__file__).parent.glob("*.py"))}


def prepare(
    profile: str | Profile = "cpu",
    *,
    corpus: str | Path | None = None,
    cache: str | Path | None = None,
) -> Prepared:
    """Prepare a corpus for a profile; a folder that is already there and whole is used again.

    Args:
        profile:
            Name of a profile, or a profile.
        corpus:
            Folder of ``.txt`` files; :obj:`None` takes the embedded State of the Union addresses.
        cache:
            Where prepared folders live; :obj:`None` takes :func:`default_cache`.

    Raises:
        ValueError: Unknown profile, or a corpus folder that cannot be used
            (:class:`~optuna_arrl.frozen_env.corpus.CorpusError`).
        OSError: The cache cannot be written.
    """
    profile, source = _named(profile), _read(corpus)
    root = _root(profile, source, cache)
    existing = _load(root, profile, corpus)
    if existing is not None:
        return existing
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        # Made aside and renamed, so that an interrupted or a second prepare() never leaves half.
        scratch = Path(tempfile.mkdtemp(prefix=".prepare-", dir=root.parent))
    except OSError as error:
        raise OSError(
            f"{root.parent} cannot be written ({error.strerror}): set XDG_CACHE_HOME to a folder "
            "of yours."
        ) from error
    try:
        _write(scratch, source, profile)
        if root.exists() and _load(root, profile, corpus) is None:
            shutil.rmtree(root)  # damaged; what another process has just made is whole
        try:
            scratch.rename(root)
        except OSError:  # another process was first: its files are the same
            pass
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    prepared = _load(root, profile, corpus)
    if prepared is None:
        raise FrozenSetChanged(f"{root} could not be prepared: delete it and try again.")
    return prepared


def find_prepared(
    profile: str | Profile = "cpu",
    *,
    corpus: str | Path | None = None,
    cache: str | Path | None = None,
) -> Prepared | None:
    """Return what :func:`prepare` would use again, :obj:`None` where it would begin anew."""
    profile = _named(profile)
    return _load(_root(profile, _read(corpus), cache), profile, corpus)


def _named(profile: str | Profile) -> Profile:
    if isinstance(profile, Profile):
        return profile
    if profile not in PROFILES:
        raise ValueError(f"Unknown profile {profile!r}: choose one of {', '.join(PROFILES)}.")
    return PROFILES[profile]


def _read(corpus: str | Path | None) -> Corpus:
    if corpus is None:
        return embedded_corpus()
    if not Path(corpus).is_dir():
        raise CorpusError(f"{corpus} is not a folder: name a folder that holds .txt files.")
    return folder_corpus(Path(corpus))


def _root(profile: Profile, source: Corpus, cache: str | Path | None) -> Path:
    """Return the folder that holds this corpus, prepared in this format for this profile."""
    identity = hashlib.sha256(
        json.dumps([_FORMAT, profile.vocab_size, source.train, source.validation, source.test])
        .encode("utf-8")
    ).hexdigest()  # fmt: skip
    name = source.name.replace(":", "-")
    return Path(cache or default_cache()) / f"{name}-{profile.vocab_size}-{identity[:12]}"


def _write(folder: Path, corpus: Corpus, profile: Profile) -> None:
    (folder / "visible").mkdir()
    (folder / "private").mkdir(mode=0o700)
    tokenizer = Tokenizer.train(corpus.train, profile.vocab_size)
    if tokenizer.vocab_size != profile.vocab_size:
        raise CorpusError(
            f"The corpus gives {tokenizer.vocab_size} tokens instead of {profile.vocab_size}: "
            "it is too small, add text."
        )
    tokenizer.save(folder / "visible" / "tokenizer.json")
    train = tokenizer.encode(corpus.train)
    if len(train) <= 16 * profile.seq_len:
        raise CorpusError("The corpus is too small to train on: add text.")
    train.tofile(folder / "visible" / "train.bin")
    tokenizer.encode(corpus.validation).tofile(folder / "private" / "val.bin")
    tokenizer.encode(corpus.test).tofile(folder / "private" / "test.bin")
    manifest = {
        "format": _FORMAT,
        "corpus": corpus.name,
        "vocab_size": profile.vocab_size,
        "train_tokens": len(train),
        "train_bytes_per_token": float(tokenizer.token_bytes[train].mean()),
        "least_bpb": _LEAST_SHARE * _compressed_bpb(corpus.validation),
        "sha256": {name: _sha256(folder / name) for name in _FILES},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _compressed_bpb(documents: tuple[str, ...]) -> float:
    text = "\f".join(documents).encode("utf-8")
    return 8.0 * len(lzma.compress(text, preset=9)) / max(1, len(text))


def _load(root: Path, profile: Profile, corpus: str | Path | None) -> Prepared | None:
    try:
        manifest = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
        texts = None if corpus is None else Path(corpus).resolve()
        prepared = Prepared(root, profile, manifest, texts)
        prepared.verify()
    except (OSError, ValueError, KeyError, FrozenSetChanged):
        return None
    return prepared


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
