"""Byte-pair encoding: trained by ``rustbpe``, applied by ``tiktoken``, bytes from raw merge bytes.

The byte length of a token is the length of its merge bytes. (karpathy/autoresearch decodes and
encodes again instead, so a token that is not valid UTF-8 counts as three bytes and bpb comes out
too low.)
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from collections.abc import Sequence
import json
from pathlib import Path

import numpy as np
import rustbpe
import tiktoken


__all__ = ["Tokenizer"]

# GPT-4's split with runs of one or two digits, as in nanochat.
_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)


class Tokenizer:
    """Ids 0 … vocab_size - 2 are merges; the last id separates documents and has no bytes."""

    def __init__(self, ranks: dict[bytes, int]) -> None:
        self._encoding = tiktoken.Encoding(
            "arrl", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens={}
        )
        self._ranks = ranks
        self.vocab_size = len(ranks) + 1
        self.separator = len(ranks)
        self.token_bytes = np.zeros(self.vocab_size, dtype=np.int32)
        for merge, rank in ranks.items():
            self.token_bytes[rank] = len(merge)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        trainer = rustbpe.Tokenizer()
        trainer.train_from_iterator(iter(texts), vocab_size - 1, pattern=_PATTERN)
        return cls({bytes(merge): rank for merge, rank in trainer.get_mergeable_ranks()})

    def encode(self, documents: Sequence[str]) -> np.ndarray:
        """Token ids of all documents, each preceded by the separator. Shape (n,), uint16."""
        parts: list[int] = []
        for tokens in self._encoding.encode_ordinary_batch(list(documents)):
            parts.append(self.separator)
            parts.extend(tokens)
        return np.array(parts, dtype=np.uint16)

    def decode(self, tokens: Sequence[int]) -> str:
        return self._encoding.decode([t for t in tokens if t != self.separator])

    def save(self, path: Path) -> None:
        merges = sorted(self._ranks, key=self._ranks.__getitem__)
        rows = [base64.b64encode(merge).decode("ascii") for merge in merges]
        path.write_text(json.dumps({"pattern": _PATTERN, "merges": rows}), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        rows = json.loads(path.read_text(encoding="utf-8"))["merges"]
        return cls({base64.b64decode(row): rank for rank, row in enumerate(rows)})
