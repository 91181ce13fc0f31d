"""Every literal of a training script as a named, typed slot."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections import defaultdict
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
import math
import operator
import re
from typing import Any

import libcst as cst
from libcst.metadata import ByteSpanPositionProvider
from libcst.metadata import CodeSpan
from libcst.metadata import MetadataWrapper
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution

from .ranges import Directive
from .ranges import infer
from .ranges import InvalidScript
from .ranges import is_power_of_two
from .ranges import Kind
from .ranges import parse_comment
from .ranges import SearchRange
from .ranges import Value


__all__ = ["Literal", "Slot", "find_literals", "switch"]

_MAX_INT = 2**53  # beyond it an Optuna storage, which holds floats, would round
_RANDOM = ("default_rng", "RandomState", "SeedSequence", "PRNGKey", "random_state")
_OPERATORS = {
    cst.Add: "+",
    cst.Subtract: "-",
    cst.Multiply: "*",
    cst.Divide: "/",
    cst.FloorDivide: "//",
    cst.Modulo: "%",
    cst.Power: "**",
    cst.MatrixMultiply: "@",
    cst.LeftShift: "<<",
    cst.RightShift: ">>",
    cst.BitAnd: "&",
    cst.BitOr: "|",
    cst.BitXor: "^",
    cst.LessThan: "<",
    cst.GreaterThan: ">",
    cst.LessThanEqual: "<=",
    cst.GreaterThanEqual: ">=",
    cst.Equal: "==",
    cst.NotEqual: "!=",
    cst.In: "in",
    cst.NotIn: "not in",
    cst.Is: "is",
    cst.IsNot: "is not",
}


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One place in a script that an edit may change.

    Attributes:
        name:
            Where it is: ``DEPTH``, ``ADAM_BETAS[0]``, ``Block.__init__.ratio``,
            ``GPT.init_weights.normal_.std#2`` (the second of that name), or
            ``catalogue.tied_embeddings``. Formatting, comments and the values of literals
            do not change it.
        kind:
            ``"int"``, ``"float"``, ``"bool"`` or ``"str"``.
        default:
            The value in the unmodified script.
        line:
            Line in the unmodified script, from 1; 0 for a switch of the catalogue.
        active:
            Whether a study searches it.
        distribution:
            Where, in terms of the parameter. One choice only for a string without
            ``choices``: it cannot be searched.
        exponent:
            The parameter is the exponent of two.
    """

    name: str
    kind: Kind
    default: Value
    line: int
    active: bool
    distribution: BaseDistribution
    exponent: bool = False

    @property
    def param_name(self) -> str:
        """Name of the Optuna parameter: ``log2(NAME)`` for sizes, else the slot's own."""
        return f"log2({self.name})" if self.exponent else self.name

    @property
    def searchable(self) -> bool:
        """Whether there is more than one value to choose from."""
        return not self.distribution.single()

    def to_param(self, value: Value) -> Value:
        """The parameter's value for a slot value: 5 for a size of 32."""
        return int(value).bit_length() - 1 if self.exponent else value

    def from_param(self, param: Value) -> Value:
        """The slot value for a parameter's value: 32 for a size's 5.

        Raises:
            ValueError: ``param`` is of another type or lies outside the distribution.
        """
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            for choice in d.choices:
                # Not `in`: True == 1 == 1.0.
                if choice == param and isinstance(choice, bool) == isinstance(param, bool):
                    assert choice is not None
                    return choice
            allowed = f"one of {', '.join(map(repr, d.choices))}"
        else:
            assert isinstance(d, FloatDistribution | IntDistribution)
            number = _number(param, whole=isinstance(d, IntDistribution))
            if number is not None and d.low <= number <= d.high:
                return 2 ** int(number) if self.exponent else number
            allowed = f"from {d.low} to {d.high}"
        raise ValueError(f"{self.param_name} = {param!r} is not {allowed}.")


def _number(param: object, whole: bool) -> int | float | None:
    if isinstance(param, bool | str):
        return None
    try:
        return operator.index(param) if whole else float(param)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


@dataclass(frozen=True, kw_only=True)
class Literal:
    """A slot and where its text is.

    Attributes:
        slot: The slot.
        start, end: Byte offsets of the text in the source encoded as UTF-8.
        exponent_start, exponent_end: Those of the exponent in ``2**14`` or ``1 << 14``.
        wrap_negative: A minus sign here would bind otherwise: ``2**x`` is not ``-2**x``.
    """

    slot: Slot
    start: int
    end: int
    exponent_start: int
    exponent_end: int
    wrap_negative: bool

    def rewrite(self, value: Value, source: bytes) -> bytes:
        """The bytes from ``start`` to ``end`` that say ``value``, in the literal's own style."""
        old = source[self.start : self.end].decode()
        if self.exponent_end > 0 and is_power_of_two(int(value)):
            before = source[self.start : self.exponent_start]
            after = source[self.exponent_end : self.end]
            return before + str(int(value).bit_length() - 1).encode() + after
        if isinstance(value, str):
            plain = value.isprintable() and not set(value) & set("\"'\\")
            text = f'"{value}"' if plain and old.endswith('"') else repr(value)
        elif isinstance(value, int) and not isinstance(value, bool) and "_" in old:
            text = f"{value:_}"
        else:
            text = repr(value)
        if self.wrap_negative and text.startswith("-"):
            text = f"({text})"
        # `return-1` and `1if x else 2` are legal: keep the tokens apart.
        if text[0].isalnum() and source[self.start - 1 : self.start].isalnum():
            text = " " + text
        if text[-1].isalnum() and source[self.end : self.end + 1].isalnum():
            text += " "
        return text.encode()


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A literal before comments are read."""

    name: str
    hints: tuple[str, ...]
    kind: Kind
    value: Value
    constant: str | None  # the constant in capitals whose element this is
    node: cst.CSTNode
    exponent: cst.CSTNode | None
    wrap_negative: bool


def find_literals(module: cst.Module, body: str) -> tuple[list[Literal], list[Directive]]:
    """Name every literal, and give it its range.

    Args:
        module: The parsed script.
        body: Its source, which ``module.code`` equals.

    Returns:
        The literals in order of the source, and the ``# arrl: catalogue`` rules.

    Raises:
        InvalidScript: An ``# arrl:`` comment is malformed or contradicts its literal.
    """
    wrapper = MetadataWrapper(module, unsafe_skip_copy=True)
    spans: Mapping[cst.CSTNode, CodeSpan] = wrapper.resolve(ByteSpanPositionProvider)
    encoded = body.encode()
    line_starts = [0, *(m.end() for m in re.finditer(rb"\r\n|\r|\n", encoded))]

    def line_of(node: cst.CSTNode) -> int:
        return bisect_right(line_starts, spans[node].start)

    finder = _LiteralFinder()
    module.visit(finder)
    found = sorted(finder.found, key=lambda item: spans[item.node].start)

    by_line: defaultdict[int, list[int]] = defaultdict(list)
    for i, item in enumerate(found):
        by_line[line_of(item.node)].append(i)
    rules: dict[int, Directive] = {}
    catalogue: list[Directive] = []
    for comment in [node for node in spans if isinstance(node, cst.Comment)]:
        line = line_of(comment)
        for directive in parse_comment(comment.value, line):
            if directive.word == "catalogue":
                if encoded[line_starts[line - 1] : spans[comment].start].strip():
                    raise InvalidScript(
                        f"line {line}: `# arrl: catalogue` stands on a line of its own."
                    )
                catalogue.append(directive)
                continue
            for i in _meant(directive, by_line[line], found):
                if i in rules:
                    raise InvalidScript(
                        f"line {line}: `# arrl:` speaks of {found[i].value!r} twice."
                    )
                rules[i] = directive

    ordinals: Counter[str] = Counter()
    literals = []
    for i, item in enumerate(found):
        ordinals[item.name] += 1
        nth = ordinals[item.name]
        name = item.name if nth == 1 else f"{item.name}#{nth}"
        span = spans[item.node]
        exponent = None if item.exponent is None else spans[item.exponent]
        literals.append(
            Literal(
                slot=_slot(name, item, line_of(item.node), rules.get(i)),
                start=span.start,
                end=span.start + span.length,
                exponent_start=0 if exponent is None else exponent.start,
                exponent_end=0 if exponent is None else exponent.start + exponent.length,
                wrap_negative=item.wrap_negative,
            )
        )
    return literals, catalogue


def _meant(directive: Directive, on_line: Sequence[int], found: Sequence[_Found]) -> list[int]:
    """The literals, by their place in ``found``, that a rule speaks of."""
    where = f"line {directive.line}: `# arrl: {directive.text}`"
    if not on_line:
        raise InvalidScript(
            f"{where} stands on a line without a literal that may be searched (seeds, dictionary "
            "keys and f-strings never are): put it at the end of the literal's line."
        )
    if directive.index is not None:
        if directive.index >= len(on_line):
            raise InvalidScript(
                f"{where}: the line has {len(on_line)} literals, counted from [0]: "
                f"{', '.join(repr(found[i].value) for i in on_line)}."
            )
        on_line = [on_line[directive.index]]
    fitting = [i for i in on_line if directive.describes(found[i].kind, found[i].value)]
    if not fitting:
        values = ", ".join(f"{found[i].value!r} ({found[i].kind})" for i in on_line)
        raise InvalidScript(
            f"{where} describes none of {values}: `int` and `pow2` are for ints, `log` and "
            "`linear` for floats or, with whole bounds, ints; strings take `choices`, bools "
            "`search`."
        )
    if directive.word == "fixed":
        return fitting
    # A string among the choices rather than the help text before it.
    fitting = [i for i in fitting if found[i].value in directive.names] or fitting
    constant = found[fitting[0]].constant
    if constant is None:
        return fitting[:1]
    return [i for i in fitting if found[i].constant == constant]


def _slot(name: str, item: _Found, line: int, rule: Directive | None) -> Slot:
    fixed = rule is not None and rule.word == "fixed"
    if rule is None or fixed:
        search = infer(item.kind, item.value, item.hints)
    else:
        search = rule.search_range(item.kind, item.value, item.hints)
    active = search is not None and not fixed and (rule is not None or item.constant is not None)
    if search is None:
        search = SearchRange(CategoricalDistribution([item.value]))
    return Slot(
        name=name,
        kind=item.kind,
        default=item.value,
        line=line,
        active=active,
        distribution=search.distribution,
        exponent=search.exponent,
    )


class _LiteralFinder(cst.CSTVisitor):
    """Walks the tree with a stack of what encloses the current node."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[_Found] = []
        # (category, text), outermost first; the categories are scope, target, call, item and
        # operator.
        self._path: list[tuple[str, str]] = []
        self._wrap: set[cst.CSTNode] = set()

    @contextmanager
    def _under(self, category: str, text: str) -> Iterator[None]:
        self._path.append((category, text))
        yield
        self._path.pop()

    def _visit_under(self, category: str, text: str, *nodes: cst.CSTNode | None) -> None:
        with self._under(category, text):
            for node in nodes:
                if node is not None:
                    node.visit(self)

    # Literals.

    def visit_Integer(self, node: cst.Integer) -> None:
        self._add(node, "int", node.evaluated_value)

    def visit_Float(self, node: cst.Float) -> None:
        self._add(node, "float", node.evaluated_value)

    def visit_Name(self, node: cst.Name) -> None:
        if node.value in ("True", "False"):
            self._add(node, "bool", node.value == "True")

    def visit_SimpleString(self, node: cst.SimpleString) -> None:
        value = node.evaluated_value
        if isinstance(value, str) and not _is_dunder(value):
            self._add(node, "str", value)

    def visit_UnaryOperation(self, node: cst.UnaryOperation) -> bool:
        operand = node.expression
        if isinstance(node.operator, cst.Minus):
            if isinstance(operand, cst.Integer):
                self._add(node, "int", -operand.evaluated_value)
                return False
            if isinstance(operand, cst.Float):
                self._add(node, "float", -operand.evaluated_value)
                return False
        return True

    def visit_BinaryOperation(self, node: cst.BinaryOperation) -> bool:
        left, right, op = node.left, node.right, node.operator
        if isinstance(left, cst.Integer) and isinstance(right, cst.Integer):
            base, exponent = left.evaluated_value, right.evaluated_value
            power = isinstance(op, cst.Power) and base == 2
            shift = isinstance(op, cst.LeftShift) and base == 1
            if (power or shift) and exponent < 53:
                self._add(node, "int", 2**exponent, exponent=right)
                return False
        if isinstance(op, cst.Power):
            self._wrap.add(left)
        self._visit_under("operator", _OPERATORS[type(op)], left, right)
        return False

    def _add(
        self, node: cst.CSTNode, kind: Kind, value: Value, exponent: cst.CSTNode | None = None
    ) -> None:
        if isinstance(value, float) and not math.isfinite(value):
            return
        if kind == "int" and abs(int(value)) > _MAX_INT:
            return
        labels = [text for category, text in self._path if category != "scope"]
        if any("seed" in text.lower() or _call_name(text) in _RANDOM for text in labels):
            return
        parenthesised = bool(getattr(node, "lpar", ()))
        self.found.append(
            _Found(
                name=self._name(),
                hints=tuple(re.findall(r"[A-Za-z_]\w*", " ".join(labels[-3:]))),
                kind=kind,
                value=value,
                constant=self._constant(),
                node=node,
                exponent=exponent,
                wrap_negative=node in self._wrap and not parenthesised,
            )
        )

    def _name(self) -> str:
        """Scopes, then the target, the innermost call, the items and the operator below it."""
        name = ""
        tail: dict[str, str] = {}
        for category, text in self._path:
            if category == "scope":
                name, tail = f"{name}.{text}", {}
            elif category == "target":
                tail = {"target": f".{text}"}
            elif category == "call":
                tail = {"target": tail.get("target", ""), "call": f".{text}"}
            elif category == "item":
                tail.pop("operator", None)
                tail["item"] = tail.get("item", "") + text
            else:
                tail.pop("operator", None)
                tail["operator"] = f".{text}"
        return (name + "".join(tail.values())).lstrip(".") or "module"

    def _constant(self) -> str | None:
        categories = [category for category, _ in self._path]
        if categories[:1] != ["target"] or set(categories[1:]) - {"item"}:
            return None
        target = self._path[0][1]
        return target if target.isupper() and target.isidentifier() else None

    # What encloses them.

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        self._path.append(("scope", node.name.value))

    def leave_FunctionDef(self, original_node: cst.FunctionDef) -> None:
        self._path.pop()

    def visit_ClassDef(self, node: cst.ClassDef) -> None:
        self._path.append(("scope", node.name.value))

    def leave_ClassDef(self, original_node: cst.ClassDef) -> None:
        self._path.pop()

    def visit_Lambda(self, node: cst.Lambda) -> None:
        self._path.append(("scope", "lambda"))

    def leave_Lambda(self, original_node: cst.Lambda) -> None:
        self._path.pop()

    def visit_Param(self, node: cst.Param) -> bool:
        self._visit_under("target", node.name.value, node.default)
        return False

    def visit_Assign(self, node: cst.Assign) -> bool:
        for assigned in node.targets:
            assigned.target.visit(self)
        self._visit_value(node.targets[0].target, node.value)
        return False

    def visit_AnnAssign(self, node: cst.AnnAssign) -> bool:
        if node.value is not None:
            self._visit_value(node.target, node.value)
        return False

    def visit_AugAssign(self, node: cst.AugAssign) -> bool:
        with self._under("target", _label(node.target)):
            self._visit_under("operator", "=", node.value)
        return False

    def _visit_value(self, target: cst.BaseExpression, value: cst.BaseExpression) -> None:
        sequences = (cst.Tuple, cst.List)
        if (
            isinstance(target, sequences)
            and isinstance(value, sequences)
            and len(target.elements) == len(value.elements)
        ):
            for one, part in zip(target.elements, value.elements, strict=True):
                self._visit_value(one.value, part.value)
            return
        name = _label(target)
        if not _is_dunder(name):
            self._visit_under("target", name, value)

    def visit_Call(self, node: cst.Call) -> bool:
        function = _label(node.func)
        node.func.visit(self)
        if function == "dict":
            for arg in node.args:
                self._visit_under("item", f".{arg.keyword.value}" if arg.keyword else "", arg)
            return False
        args = list(enumerate(node.args))
        if function in ("add_argument", "add_option", "option") and args:
            # Command-line options are told apart by what they are called.
            first = args[0][1].value
            if isinstance(first, cst.SimpleString):
                function = f"{function}({str(first.evaluated_value).lstrip('-')})"
                args = [(i, a) for i, a in args if a.keyword is not None]
        for position, arg in args:
            if arg.keyword is None:
                self._visit_under("call", f"{function}[{position}]", arg.value)
            else:
                self._visit_under("call", f"{function}.{arg.keyword.value}", arg.value)
        return False

    def visit_Tuple(self, node: cst.Tuple) -> bool:
        return self._visit_elements(node.elements)

    def visit_List(self, node: cst.List) -> bool:
        return self._visit_elements(node.elements)

    def _visit_elements(self, elements: Sequence[cst.BaseElement]) -> bool:
        for position, element in enumerate(elements):
            self._visit_under("item", f"[{position}]", element.value)
        return False

    def visit_DictElement(self, node: cst.DictElement) -> bool:
        key = _label(node.key)
        self._visit_under("item", f".{key}" if key.isidentifier() else f"[{key}]", node.value)
        return False

    def visit_Return(self, node: cst.Return) -> None:
        self._path.append(("target", "return"))

    def leave_Return(self, original_node: cst.Return) -> None:
        self._path.pop()

    def visit_SubscriptElement(self, node: cst.SubscriptElement) -> None:
        self._path.append(("item", "[]"))

    def leave_SubscriptElement(self, original_node: cst.SubscriptElement) -> None:
        self._path.pop()

    def visit_Comparison(self, node: cst.Comparison) -> None:
        self._path.append(("operator", _OPERATORS[type(node.comparisons[0].operator)]))

    def leave_Comparison(self, original_node: cst.Comparison) -> None:
        self._path.pop()

    def visit_Attribute(self, node: cst.Attribute) -> bool:
        self._wrap.add(node.value)
        node.value.visit(self)
        return False

    # What holds no slots.

    def visit_Expr(self, node: cst.Expr) -> bool:
        return not isinstance(node.value, cst.SimpleString)  # docstrings and the like

    def visit_ConcatenatedString(self, node: cst.ConcatenatedString) -> bool:
        return False

    def visit_FormattedString(self, node: cst.FormattedString) -> bool:
        return False

    def visit_Annotation(self, node: cst.Annotation) -> bool:
        return False

    def visit_Index(self, node: cst.Index) -> bool:
        return not isinstance(node.value, cst.SimpleString)  # a dictionary's key

    def visit_MatchCase(self, node: cst.MatchCase) -> bool:
        for part in (node.guard, node.body):
            if part is not None:
                part.visit(self)
        return False


def _label(node: cst.BaseExpression) -> str:
    """The last word of a dotted name, the key of a subscript, the text of a constant."""
    if isinstance(node, cst.Name):
        return node.value
    if isinstance(node, cst.Attribute):
        return node.attr.value
    if isinstance(node, cst.SimpleString):
        return str(node.evaluated_value)
    if isinstance(node, cst.Integer):
        return node.value
    if isinstance(node, cst.Subscript):
        index: Any = node.slice[0].slice
        if isinstance(index, cst.Index) and isinstance(index.value, cst.SimpleString):
            return _label(index.value)
        return _label(node.value)
    if isinstance(node, cst.Call):
        return _label(node.func)
    if isinstance(node, cst.Tuple | cst.List) and node.elements:
        return _label(node.elements[0].value)
    return "expression"


def _call_name(label: str) -> str:
    # "default_rng[0]" -> "default_rng"; "train_test_split.random_state" -> "random_state"
    return re.sub(r"\[\d+\]$", "", label).rpartition(".")[2]


def _is_dunder(text: str) -> bool:
    return len(text) > 4 and text.startswith("__") and text.endswith("__")


def switch(name: str, active: bool) -> Slot:
    """The slot of a structural edit, off in the unmodified script."""
    return Slot(
        name=name,
        kind="bool",
        default=False,
        line=0,
        active=active,
        distribution=CategoricalDistribution([False, True]),
    )
