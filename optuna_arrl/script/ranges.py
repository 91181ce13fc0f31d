"""The range of a slot: read from an ``# arrl:`` comment, or inferred from the literal itself.

The comment stands at the end of the literal's line; what follows a further ``#`` is a remark::

    MATRIX_LR = (
        0.02  # arrl: log 2e-3 0.2     # logarithmic, floats (or ints, between whole bounds)
    )
    DROPOUT = 0.1  # arrl: linear 0 0.5
    DEPTH = 4  # arrl: int 1 8                 # `int 1 64 log` for a logarithmic one
    BATCH_SIZE = 32  # arrl: pow2 4 128        # powers of two only
    PATTERN = "SSSL"  # arrl: choices SSSL LLLL
    HEADS = 4  # arrl: search                  # active, the range inferred
    EPS = 1e-10  # arrl: fixed                 # never searched

It speaks of the first literal on its line that it can describe: ``int`` and ``pow2`` of ints,
``log`` and ``linear`` of floats (of ints too when both bounds are whole), ``choices`` of literals
of their own type. When that literal is an element of a constant in capitals, it speaks of all
elements on the line. ``fixed`` speaks of every literal on the line. ``[k]`` picks the k-th literal
of the line, counted from 0, and ``;`` joins several: ``# arrl: [0] linear 0.5 0.95; [1] linear 0.9
0.999``.
"""

from __future__ import annotations

from dataclasses import dataclass
import math
import re
import shlex
from typing import Literal
from typing import TypeAlias

from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution


__all__ = [
    "Directive",
    "InvalidScript",
    "Kind",
    "SearchRange",
    "Value",
    "infer",
    "is_power_of_two",
    "parse_comment",
]

Value: TypeAlias = bool | int | float | str
Kind: TypeAlias = Literal["int", "float", "bool", "str"]

_COMMENT = re.compile(r"#\s*arrl\s*:(?P<body>[^#]*)")
_INDEX = re.compile(r"\[(\d+)\]\s*")
_WORDS = ("log", "linear", "int", "pow2", "choices", "search", "fixed")
_GRAMMAR = (
    "write `# arrl: log LOW HIGH`, `linear LOW HIGH`, `int LOW HIGH` (`log` may follow), "
    "`pow2 LOW HIGH`, `choices A B ...`, `search` or `fixed`"
)

# What a name's ending says about its value.
_FRACTIONS = ("RATIO", "FRAC", "FRACTION", "DROPOUT", "PROB", "PROBABILITY", "SMOOTHING")
_NEAR_ONE = ("BETA", "BETAS", "MOMENTUM", "DECAY", "EMA", "GAMMA")
_COUNTS = ("DEPTH", "LAYERS", "LAYER", "STEPS", "EPOCHS", "HEADS", "HEAD", "BLOCKS", "WORKERS")


class InvalidScript(ValueError):
    """A script, or what an edit made of it, that cannot be used; the message says why."""


@dataclass(frozen=True)
class SearchRange:
    """Where a slot is searched.

    Attributes:
        distribution: What Optuna draws from.
        exponent: The distribution is of the exponent of two, not of the value.
    """

    distribution: BaseDistribution
    exponent: bool = False

    def holds(self, value: Value) -> bool:
        """Whether the literal ``value`` lies in the range."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return any(type(c) is type(value) and c == value for c in d.choices)
        assert isinstance(d, FloatDistribution | IntDistribution) and not isinstance(value, str)
        if not self.exponent:
            return bool(d.low <= value <= d.high)
        return is_power_of_two(value) and d.low <= int(value).bit_length() - 1 <= d.high

    def __str__(self) -> str:
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return "choices " + " ".join(str(choice) for choice in d.choices)
        assert isinstance(d, FloatDistribution | IntDistribution)
        if self.exponent:
            return f"powers of two from {2**d.low} to {2**d.high}"
        return f"{d.low} to {d.high}"


@dataclass(frozen=True, kw_only=True)
class Directive:
    """One rule of an ``# arrl:`` comment.

    Attributes:
        text: As written, for messages.
        line: Line of the comment, from 1.
        index: Which literal of the line is meant, from 0; :obj:`None` where the comment is silent.
        word: One of ``log linear int pow2 choices search fixed catalogue``.
        low, high: Bounds as written, for the first four.
        log: ``int LOW HIGH log``.
        names: The words after ``choices`` or ``catalogue``.
    """

    text: str
    line: int
    index: int | None
    word: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    names: tuple[str, ...] = ()

    def describes(self, kind: Kind, value: Value) -> bool:
        """Whether this rule is about literals of this type."""
        if self.word == "fixed":
            return True
        if self.word == "search":
            return kind != "str"
        if self.word in ("int", "pow2"):
            return kind == "int"
        if self.word == "choices":
            if kind == "str":
                return value in self.names or not all(map(_is_number, self.names))
            return kind != "bool" and all(_is_number(n, whole=kind == "int") for n in self.names)
        whole = self.low.is_integer() and self.high.is_integer()
        return kind == "float" or (kind == "int" and whole)

    def search_range(self, kind: Kind, value: Value, hints: tuple[str, ...]) -> SearchRange:
        """The range that this rule, which describes such literals, gives to the literal.

        Raises:
            InvalidScript: The literal itself does not lie in it.
        """
        found: SearchRange | None
        if self.word == "search":
            found = infer(kind, value, hints)
            assert found is not None, "`search` describes no strings"
        elif self.word == "choices":
            choices = [_convert(name, kind) for name in self.names]
            found = SearchRange(CategoricalDistribution(choices))
        elif self.word == "pow2":
            low, high = int(self.low).bit_length() - 1, int(self.high).bit_length() - 1
            found = SearchRange(IntDistribution(low, high), exponent=True)
        elif kind == "int":
            log = self.log or self.word == "log"
            found = SearchRange(IntDistribution(int(self.low), int(self.high), log=log))
        else:
            log = self.word == "log"
            found = SearchRange(FloatDistribution(self.low, self.high, log=log))
        if not found.holds(value):
            raise InvalidScript(
                f"line {self.line}: {value!r} lies outside its own range ({found}): change the "
                "literal or the `# arrl:` comment."
            )
        return found


def parse_comment(comment: str, line: int) -> list[Directive]:
    """Read the rules of a comment; the list is empty when it is not an ``# arrl:`` comment.

    Args:
        comment: The comment, from its first ``#``.
        line: Its line, from 1.

    Raises:
        InvalidScript: The comment breaks the grammar; the message shows the line and the grammar.
    """
    found = _COMMENT.search(comment)
    if found is None:
        return []
    return [_parse_rule(part.strip(), line) for part in found["body"].split(";")]


def _parse_rule(text: str, line: int) -> Directive:
    def malformed(why: str) -> InvalidScript:
        return InvalidScript(f"line {line}: `# arrl: {text}` {why}; {_GRAMMAR}.")

    at = _INDEX.match(text)
    index = None if at is None else int(at[1])
    try:
        words = shlex.split(text if at is None else text[at.end() :])
    except ValueError as error:
        raise malformed(f"has an open quote ({error})") from None
    word, rest = (words[0], tuple(words[1:])) if words else ("", ())
    if word == "catalogue":
        return Directive(text=text, line=line, index=index, word=word, names=rest)
    if word not in _WORDS:
        raise malformed("is not understood")
    if word in ("search", "fixed"):
        if rest:
            raise malformed(f"says more than `{word}`")
        return Directive(text=text, line=line, index=index, word=word)
    if word == "choices":
        if len(set(rest)) < max(2, len(rest)):
            raise malformed("needs two or more choices, each once")
        return Directive(text=text, line=line, index=index, word=word, names=rest)
    log = word == "int" and rest[2:] == ("log",)
    if len(rest) != 2 + log or not all(map(_is_number, rest[:2])):
        raise malformed("needs two bounds")
    low, high = float(rest[0]), float(rest[1])
    if not low < high:
        raise malformed("needs LOW below HIGH")
    if word in ("int", "pow2") and not (low.is_integer() and high.is_integer()):
        raise malformed("needs whole bounds")
    if (word == "log" and low <= 0) or (log and low < 1):
        raise malformed("needs a LOW above 0")
    if word == "pow2" and not (is_power_of_two(low) and is_power_of_two(high)):
        raise malformed("needs powers of two as bounds")
    return Directive(text=text, line=line, index=index, word=word, low=low, high=high, log=log)


def infer(kind: Kind, value: Value, hints: tuple[str, ...]) -> SearchRange | None:
    """A range for a literal that has no comment.

    Args:
        kind: Its type.
        value: Its value, which always lies in the range.
        hints: The names around it; their endings tell fractions, decays and counts apart.

    Returns:
        :obj:`None` for a string: there is nothing to choose from.
    """
    if kind == "str":
        return None
    if kind == "bool":
        return SearchRange(CategoricalDistribution([False, True]))
    # "adam_beta_1" ends with "BETA".
    endings = {hint.upper().rstrip("_0123456789").split("_")[-1] for hint in hints}
    if kind == "int":
        return _infer_int(int(value), endings)
    return SearchRange(_infer_float(float(value), endings))


def _infer_int(value: int, endings: set[str]) -> SearchRange:
    count = value <= 16 and not endings.isdisjoint(_COUNTS)
    if is_power_of_two(value) and value >= 8 and not count:
        exponent = value.bit_length() - 1
        # A factor of four each way: widths and batches fill memory sooner than rates diverge.
        return SearchRange(IntDistribution(max(1, exponent - 2), exponent + 2), exponent=True)
    if value == 0:
        return SearchRange(IntDistribution(0, 4))
    if value < 0:
        return SearchRange(IntDistribution(2 * value, min(-1, value // 2)))
    if value <= 16:
        return SearchRange(IntDistribution(max(1, value // 2), max(4, 2 * value)))
    return SearchRange(IntDistribution(max(1, value // 4), 4 * value, log=True))


def _infer_float(value: float, endings: set[str]) -> FloatDistribution:
    if value < 0:
        return FloatDistribution(2 * value, 0.0)
    if not endings.isdisjoint(_FRACTIONS) and value <= 1:
        return FloatDistribution(0.0, 1.0)
    if not endings.isdisjoint(_NEAR_ONE):
        if 0.5 < value < 1:
            # 1 - value is what matters: from four times as far from 1 to an eighth as far.
            far = round(1 - value, 12)
            return FloatDistribution(round(max(0.0, 1 - 4 * far), 12), round(1 - far / 8, 12))
        if value == 0:
            return FloatDistribution(0.0, 0.3)
    if value == 0:
        return FloatDistribution(0.0, 1.0)
    return FloatDistribution(value / 8, 8 * value, log=True)


def is_power_of_two(value: float) -> bool:
    """Whether ``value`` is 1, 2, 4, ..."""
    whole = int(value)
    return whole == value and whole > 0 and whole & (whole - 1) == 0


def _convert(text: str, kind: Kind) -> Value:
    if kind == "str":
        return text
    return int(float(text)) if kind == "int" else float(text)  # `1e6` is a fine way to say an int


def _is_number(text: str, whole: bool = False) -> bool:
    try:
        number = float(text)
    except ValueError:
        return False
    return math.isfinite(number) and (not whole or number.is_integer())
