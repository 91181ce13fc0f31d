"""Edits of a training script: slot values → new source, its diff, and its identity."""

from __future__ import annotations

import ast
from collections.abc import Collection
from collections.abc import Mapping
from dataclasses import replace
import difflib
import hashlib
import warnings

import libcst as cst

from .catalogue import CATALOGUE
from .ranges import Directive
from .ranges import InvalidScript
from .ranges import Value
from .slots import find_literals
from .slots import Slot
from .slots import switch


__all__ = ["Script", "normalised_hash", "unified_diff"]

_BOM = "\ufeff"
_MAX_FOLDED_BITS = 128


class Script:
    """A training script whose literals are slots.

    Active are the constants in capitals at module level, the literals with an ``# arrl:`` comment
    on their line (:mod:`optuna_arrl.script.ranges` has the grammar), and the switches of those
    structural edits of the catalogue that apply. A line of its own, ``# arrl: catalogue off`` or
    ``# arrl: catalogue gelu value_residual``, restricts the latter.

    Example:
        .. code-block:: python

            script = Script("LR = 1e-3  # peak\\n")
            assert script.defaults() == {"LR": 0.001}
            assert script.render({"LR": 0.002}) == "LR = 0.002  # peak\\n"

    Args:
        source: Python source. Read it with ``newline=""``, so that line ends stay as they are.
        activate: Names of further slots to search.

    Raises:
        InvalidScript: The source does not compile, or an ``# arrl:`` comment is wrong.
        ValueError: A name in ``activate`` is no slot of this script, or has nothing to search.
    """

    def __init__(self, source: str, *, activate: Collection[str] = ()) -> None:
        self._source = source
        body = source.removeprefix(_BOM)
        _check_compiles(body)
        try:
            module = cst.parse_module(body)
        except cst.ParserSyntaxError as error:
            raise InvalidScript(f"line {error.raw_line}: {error.message}") from None
        if module.code != body:
            raise InvalidScript(
                "the script holds a form feed or a lone carriage return, which edits would not "
                "keep: remove it."
            )
        self._body = body
        self._literals, rules = find_literals(module, body)
        allowed = _allowed_switches(rules)
        slots = [literal.slot for literal in self._literals]
        slots += [switch(e.name, e.name in allowed) for e in CATALOGUE if e.applies(module)]
        self._slots = _activated(slots, activate)

    @property
    def source(self) -> str:
        """The source as given."""
        return self._source

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All slots: literals in order of the source, then switches of the catalogue."""
        return self._slots

    @property
    def active(self) -> dict[str, Slot]:
        """The slots that a study searches, by parameter name."""
        return {slot.param_name: slot for slot in self._slots if slot.active}

    def defaults(self) -> dict[str, Value]:
        """The parameters of the unmodified script, by parameter name."""
        return {name: slot.to_param(slot.default) for name, slot in self.active.items()}

    def render(self, params: Mapping[str, Value]) -> str:
        """The source with these values; what is not in ``params`` keeps its default.

        Literals change first and in place: every other byte stays. Then the structural edits that
        are switched on follow in the order of the catalogue; one that an earlier one has left
        nothing to do for does nothing.

        Args:
            params: Values by parameter name.

        Raises:
            ValueError: A name is no active slot, or a value lies outside its slot's range.
            InvalidScript: The result does not compile.
        """
        active = self.active
        values: dict[str, Value] = {}
        for name, param in params.items():
            if name not in active:
                raise ValueError(_unknown(name, active, "is no active slot of this script"))
            values[active[name].name] = active[name].from_param(param)

        old = self._body.encode()
        pieces: list[bytes] = []
        end = 0
        for literal in self._literals:
            default = literal.slot.default
            value = values.get(literal.slot.name, default)
            if value != default:
                pieces += [old[end : literal.start], literal.rewrite(value, old)]
                end = literal.end
        body = b"".join([*pieces, old[end:]]).decode()

        switched_on = [edit for edit in CATALOGUE if values.get(edit.name)]
        if switched_on:
            module = cst.parse_module(body)
            for edit in switched_on:
                module = edit.apply(module)
            body = module.code
        if body == self._body:
            return self._source
        _check_compiles(body)
        return (_BOM if self._source.startswith(_BOM) else "") + body


def _check_compiles(body: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # the script's own affair
            compile(body, "train.py", "exec", dont_inherit=True)
    except SyntaxError as error:
        raise InvalidScript(f"line {error.lineno} is no valid Python: {error.msg}.") from None
    except (ValueError, RecursionError, MemoryError) as error:  # null bytes, absurd nesting
        raise InvalidScript(f"the script does not compile: {error}.") from None


def _allowed_switches(rules: list[Directive]) -> set[str]:
    short_names = {edit.name.removeprefix("catalogue."): edit.name for edit in CATALOGUE}
    if not rules:
        return set(short_names.values())
    allowed = set()
    for rule in rules:
        if rule.names == ("off",):
            continue
        if not rule.names:
            raise InvalidScript(
                f"line {rule.line}: write `# arrl: catalogue off` or `# arrl: catalogue NAME ...`."
            )
        for name in rule.names:
            if name not in short_names:
                why = _unknown(name, short_names, "is no edit of the catalogue")
                raise InvalidScript(f"line {rule.line}: {why}")
            allowed.add(short_names[name])
    return allowed


def _activated(slots: list[Slot], names: Collection[str]) -> tuple[Slot, ...]:
    by_name = {slot.name: slot for slot in slots}
    for name in names:
        if name not in by_name:
            count = sum(slot.searchable for slot in slots)
            what = f"is none of the {count} slots of this script, which `arrl slots` lists"
            raise ValueError(_unknown(name, by_name, what))
        if not by_name[name].searchable:
            raise ValueError(
                f"{name!r} is a string and has nothing to choose from: put "
                "`# arrl: choices A B ...` on its line."
            )
    return tuple(replace(s, active=True) if s.name in names else s for s in slots)


def _unknown(name: str, known: Collection[str], what: str) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"; did you mean {', '.join(map(repr, close))}?" if close else "."
    return f"{name!r} {what}{hint}"


def normalised_hash(source: str) -> str:
    """SHA-256, in hexadecimal, of a script's syntax tree: equal for edits that do the same.

    Formatting, comments and docstrings do not count, nor how a number is written: ``1e-3`` is
    ``0.001`` and ``2**14`` is ``16384``. It is the same under every Python version that has the
    syntax.

    Raises:
        InvalidScript: The source does not parse.
    """
    try:
        tree = ast.parse(source.removeprefix(_BOM))
        canonical = repr(_canonical(tree))
    except SyntaxError as error:
        raise InvalidScript(f"line {error.lineno} is no valid Python: {error.msg}.") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise InvalidScript(f"the script does not parse: {error}.") from None
    return hashlib.sha256(canonical.encode("utf-8", "backslashreplace")).hexdigest()


def _canonical(node: object) -> object:
    """Nested tuples of what a syntax tree means. Not `ast.dump`: it differs between versions."""
    if isinstance(node, list):
        return tuple(_canonical(part) for part in node)
    if not isinstance(node, ast.AST):
        return node
    folded = _folded(node)
    if folded is not None:
        return ("Constant", folded)
    fields = []
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(value, list) and _has_docstring(node):
            value = value[1:] or [ast.Pass()]
        if (value is None and not isinstance(node, ast.Constant)) or value == []:
            continue
        if name not in ("kind", "type_comment", "type_ignores", "ctx"):
            fields.append((name, _canonical(value)))
    return (type(node).__name__, *fields)


def _has_docstring(node: ast.AST) -> bool:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    if not isinstance(node, documented) or not node.body:
        return False
    first = node.body[0]
    return (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )


def _folded(node: ast.AST) -> int | float | None:
    """The number that a signed literal or a power of literal ints is."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            magnitude = _folded(operand)
            return None if magnitude is None else -magnitude
        case ast.BinOp(left=left, op=ast.Pow() | ast.LShift(), right=right):
            base, exponent = _folded(left), _folded(right)
            if isinstance(base, int) and isinstance(exponent, int) and 0 <= exponent:
                shift = isinstance(node.op, ast.LShift)
                bits = base.bit_length() + exponent if shift else base.bit_length() * exponent
                if bits <= _MAX_FOLDED_BITS:
                    return int(base << exponent if shift else base**exponent)
    return None


def unified_diff(before: str, after: str, path: str = "train.py") -> str:
    """A diff from ``before`` to ``after`` that ``git apply`` takes, byte for byte.

    Args:
        before, after: Sources.
        path: The file's path in the repository, with forward slashes.

    Returns:
        The empty string when the sources are equal.
    """
    if before == after:
        return ""
    # Lines end at "\n" only, as in git: not at "\r", "\f" or U+2028.
    old, new = (text.split("\n") for text in (before, after))
    old, new = ([f"{x}\n" for x in lines[:-1]] + lines[-1:] for lines in (old, new))
    old, new = ([line for line in lines if line] for lines in (old, new))
    hunks = list(difflib.unified_diff(old, new, n=3))[2:]
    head = [f"diff --git a/{path} b/{path}\n", f"--- a/{path}\n", f"+++ b/{path}\n"]
    marked = [x if x.endswith("\n") else f"{x}\n\\ No newline at end of file\n" for x in hunks]
    return "".join(head + marked)
