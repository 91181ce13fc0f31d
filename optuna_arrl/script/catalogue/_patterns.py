"""What GPT scripts in the manner of nanochat look like, and how to change them."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import fields
from typing import Any
from typing import TypeAlias
from typing import TypeVar

import libcst as cst
import libcst.matchers as m


__all__ = [
    "Change",
    "LinearCall",
    "after",
    "attention_forward",
    "become",
    "before",
    "block_forward",
    "block_loop",
    "body_of",
    "call",
    "copy_of",
    "find",
    "first_parameter",
    "has_name",
    "initialisers",
    "linear_calls",
    "methods",
    "methods_of",
    "norm_name",
    "owner_of",
    "parse_lines",
    "replace_nodes",
    "replace_relu_squared",
    "residual_branch",
    "times",
]

Change: TypeAlias = Callable[[Any], Any]
"""What becomes of a node, whose inner parts are already changed."""

_BLANK = (cst.BaseParenthesizableWhitespace, cst.TrailingWhitespace, cst.EmptyLine)
_Node = TypeVar("_Node", bound=cst.CSTNode)


class _Replace(cst.CSTTransformer):
    def __init__(self, changes: Mapping[cst.CSTNode, Change]) -> None:
        super().__init__()
        self._changes = changes

    def on_visit(self, node: cst.CSTNode) -> bool:
        return not isinstance(node, _BLANK)

    def on_leave(self, original_node: cst.CSTNode, updated_node: cst.CSTNode) -> Any:
        change = self._changes.get(original_node)
        return updated_node if change is None else change(updated_node)


def replace_nodes(module: cst.Module, changes: Mapping[cst.CSTNode, Change]) -> cst.Module:
    """The module with these of its nodes changed."""
    body: list[Any] = []
    for statement in module.body:
        new: Any = statement
        if any(node in changes for node in find(statement, cst.CSTNode)):  # type: ignore[type-abstract]
            new = statement.visit(_Replace(changes))
        body += new if isinstance(new, cst.FlattenSentinel) else [new]
    return module.with_changes(body=body)


def before(*new: cst.BaseStatement) -> Change:
    """Put statements before a statement."""
    return lambda old: cst.FlattenSentinel([*new, old])


def after(*new: cst.BaseStatement) -> Change:
    """Put statements after a statement."""
    return lambda old: cst.FlattenSentinel([old, *new])


def become(new: cst.CSTNode) -> Change:
    """Put a node in place of a node."""
    return lambda _: new


def parse_lines(module: cst.Module, *lines: str) -> list[cst.BaseStatement]:
    """Statements written as the module is, in its kind of indentation and line ends."""
    return [cst.parse_statement(line, module.config_for_parsing) for line in lines]


def find(tree: cst.CSTNode, kind: type[_Node]) -> list[_Node]:
    """All nodes of a kind, inner before outer: calls in order of evaluation."""
    return list(_walk(tree, kind))


def _walk(tree: cst.CSTNode, kind: type[_Node]) -> Iterator[_Node]:
    # Not `tree.children`, which builds the tree anew and takes ten times as long.
    for field in fields(tree):
        value = getattr(tree, field.name)
        for child in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(child, cst.CSTNode) and not isinstance(child, _BLANK):
                yield from _walk(child, kind)
    if isinstance(tree, kind):
        yield tree


def has_name(tree: cst.CSTNode, *names: str) -> bool:
    """Whether one of the names occurs."""
    return any(name.value in names for name in find(tree, cst.Name))


def methods(module: cst.Module, name: str, *hints: str) -> list[cst.FunctionDef]:
    """Methods of that name in the classes at top level whose name contains one of the hints."""
    return [
        function
        for owner in module.body
        if isinstance(owner, cst.ClassDef) and any(h in owner.name.value for h in hints)
        for function in methods_of(owner, name)
    ]


def methods_of(owner: cst.ClassDef, name: str) -> list[cst.FunctionDef]:
    """Methods of that name; more than one where the class defines it anew."""
    functions = [s for s in owner.body.body if isinstance(s, cst.FunctionDef)]
    return [function for function in functions if function.name.value == name]


def owner_of(module: cst.Module, function: cst.FunctionDef) -> cst.ClassDef:
    """The class at top level that has this method."""
    classes = [s for s in module.body if isinstance(s, cst.ClassDef)]
    return next(owner for owner in classes if function in owner.body.body)


def attention_forward(module: cst.Module) -> cst.FunctionDef | None:
    """``forward`` of the only attention class."""
    found = methods(module, "forward", "Attention")
    return found[0] if len(found) == 1 and first_parameter(found[0]) else None


def block_forward(module: cst.Module) -> cst.FunctionDef | None:
    """``forward`` of the transformer block: the one with two residual branches."""
    for forward in methods(module, "forward", "Block", "Layer"):
        if sum(residual_branch(s) is not None for s in body_of(forward)) == 2:
            return forward
    return None


def block_loop(module: cst.Module) -> tuple[cst.FunctionDef, cst.For, cst.Call] | None:
    """The model's ``forward``, its loop over the blocks, and the call of a block in it.

    The loop is ``for block in self.blocks`` or ``for i, block in enumerate(self.blocks)``, and
    calls ``block(x, ...)`` once.
    """
    over = m.Attribute()
    loops = m.For(target=m.Name(), iter=over) | m.For(
        target=m.Tuple(elements=[m.Element(m.Name()), m.Element(m.Name())]),
        iter=m.Call(func=m.Name("enumerate"), args=[m.Arg(over)]),
    )
    for forward in methods(module, "forward", ""):
        for loop in body_of(forward):
            if not m.matches(loop, loops):
                continue
            assert isinstance(loop, cst.For)
            block = find(loop.target, cst.Name)[-1].value
            block_call = m.Call(
                func=m.Name(block), args=[m.Arg(m.Name(), keyword=None), m.ZeroOrMore()]
            )
            calls = [c for c in find(loop.body, cst.Call) if m.matches(c, block_call)]
            if len(calls) == 1:
                return forward, loop, calls[0]
    return None


def body_of(function: cst.FunctionDef) -> Sequence[cst.BaseStatement]:
    """The statements at the top of a function's body, less the docstring."""
    body = function.body
    if not isinstance(body, cst.IndentedBlock):
        return ()
    documented = function.get_docstring(clean=False) is not None
    return body.body[1:] if documented else body.body


def first_parameter(method: cst.FunctionDef) -> str | None:
    """Name of the first parameter after ``self``."""
    parameters = method.params.params
    return parameters[1].name.value if len(parameters) > 1 else None


def residual_branch(statement: cst.CSTNode) -> tuple[str, cst.Call] | None:
    """``("x", branch)`` for ``x = x + branch(...)`` or ``x += branch(...)``."""
    target = m.SaveMatchedNode(m.Name(), "name")
    branch = m.SaveMatchedNode(m.Call(), "branch")
    plain = m.Assign(
        targets=[m.AssignTarget(target)],
        value=m.BinaryOperation(m.SaveMatchedNode(m.Name(), "left"), m.Add(), branch),
    )
    augmented = m.AugAssign(target=target, operator=m.AddAssign(), value=branch)
    found = m.extract(statement, m.SimpleStatementLine(body=[plain | augmented]))
    if found is None:
        return None
    name, value = _text(found["name"]), found["branch"]
    assert isinstance(value, cst.Call)
    return (name, value) if _text(found.get("left", found["name"])) == name else None


def norm_name(module: cst.Module) -> str | None:
    """Name of the module's own function of one argument that normalises by ``rms_norm``."""
    for statement in module.body:
        if (
            isinstance(statement, cst.FunctionDef)
            and len(statement.params.params) == 1
            and has_name(statement, "rms_norm")
        ):
            return statement.name.value
    return None


def call(name: str, argument: cst.BaseExpression) -> cst.Call:
    """``name(argument)``."""
    return cst.Call(cst.Name(name), [cst.Arg(argument)])


def times(left: cst.BaseExpression, right: str) -> cst.BaseExpression:
    """``left * right``, the left side in parentheses where it may need them."""
    atom = cst.Name | cst.Call | cst.Attribute | cst.Subscript
    if not isinstance(left, atom) and not left.lpar:
        left = left.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    return cst.BinaryOperation(left, cst.Multiply(), cst.parse_expression(right))


@dataclass(frozen=True)
class LinearCall:
    """A call ``self.name(argument)`` of a layer ``self.name = nn.Linear(a, b, ...)``.

    Attributes:
        name: The attribute.
        call: The call.
        made: The statement in the constructor.
    """

    name: str
    call: cst.Call
    made: cst.SimpleStatementLine


def linear_calls(module: cst.Module, forward: cst.FunctionDef) -> list[LinearCall]:
    """The calls of the class's own linear layers in a method, in order of evaluation."""
    linear = m.Call(
        func=m.Name("Linear") | m.Attribute(attr=m.Name("Linear")),
        args=[m.Arg(keyword=None), m.Arg(keyword=None), m.ZeroOrMore()],
    )
    attribute = m.Attribute(m.Name("self"), m.SaveMatchedNode(m.Name(), "name"))
    making = m.SimpleStatementLine(
        body=[m.Assign(targets=[m.AssignTarget(attribute)], value=linear)]
    )
    made = {}
    for init in methods_of(owner_of(module, forward), "__init__"):
        for statement in body_of(init):
            found = m.extract(statement, making)
            if found is not None and isinstance(statement, cst.SimpleStatementLine):
                made[_text(found["name"])] = statement
    calls = []
    for node in find(forward, cst.Call):
        found = m.extract(node, m.Call(func=attribute, args=[m.Arg()]))
        if found is not None and _text(found["name"]) in made:
            name = _text(found["name"])
            calls.append(LinearCall(name, node, made[name]))
    return calls


def _text(name: object) -> str:
    assert isinstance(name, cst.Name)
    return name.value


def initialisers(module: cst.Module, part: str, name: str) -> list[cst.SimpleStatementLine]:
    """Statements such as ``nn.init.zeros_(block.attn.proj.weight)``.

    Args:
        module: Where to look.
        part: What the owner's name contains, here ``att``.
        name: The attribute whose weight is initialised, here ``proj``.
    """
    owner = m.Attribute(attr=m.Name(m.MatchIfTrue(lambda text: part in text)))
    weight = m.Attribute(m.Attribute(owner, m.Name(name)), m.Name("weight"))
    in_place = m.Name(m.MatchIfTrue(lambda text: text.endswith("_")))
    pattern = m.SimpleStatementLine(
        body=[
            m.Expr(m.Call(func=m.Attribute(attr=in_place), args=[m.Arg(weight), m.ZeroOrMore()]))
        ]
    )
    return [s for s in find(module, cst.SimpleStatementLine) if m.matches(s, pattern)]


class _Rename(cst.CSTTransformer):
    def __init__(self, old: str, new: str) -> None:
        super().__init__()
        self._old, self._new = old, new

    def leave_Attribute(
        self, original_node: cst.Attribute, updated_node: cst.Attribute
    ) -> cst.Attribute:
        if updated_node.attr.value != self._old:
            return updated_node
        return updated_node.with_changes(attr=cst.Name(self._new))


def copy_of(statement: cst.SimpleStatementLine, old: str, new: str) -> cst.SimpleStatementLine:
    """The statement for attribute ``new`` in place of ``old``, without comments."""
    copy = statement.visit(_Rename(old, new))
    assert isinstance(copy, cst.SimpleStatementLine)
    return copy.with_changes(leading_lines=[], trailing_whitespace=cst.TrailingWhitespace())


def replace_relu_squared(module: cst.Module, function: str) -> cst.Module | None:
    """Put ``F.function(h)`` where the source squares ``F.relu(h)``."""
    relu = m.SaveMatchedNode(
        m.Call(func=m.Attribute(m.Name("F"), m.Name("relu")), args=[m.Arg()]), "relu"
    )
    squared = (
        m.Call(func=m.Attribute(relu, m.Name("square")), args=[])
        | m.Call(func=m.Attribute(relu, m.Name("pow")), args=[m.Arg(m.Integer())])
        | m.Call(func=m.Attribute(m.Name("torch"), m.Name("square")), args=[m.Arg(relu)])
        | m.BinaryOperation(relu, m.Power(), m.Integer())
    )
    changes: dict[cst.CSTNode, Change] = {}
    for node in [*find(module, cst.Call), *find(module, cst.BinaryOperation)]:
        found = m.extract(node, squared)
        if found is not None:
            inner = found["relu"]
            assert isinstance(inner, cst.Call)
            activation = inner.with_changes(func=cst.Attribute(cst.Name("F"), cst.Name(function)))
            changes[node] = become(activation)
    return replace_nodes(module, changes) if changes else None
