"""Logits by the embedding matrix over √width (Press and Wolf 2016, arXiv 1608.05859)."""

from __future__ import annotations

import libcst as cst
import libcst.matchers as m

from ._patterns import find
from ._patterns import has_name
from ._patterns import methods
from ._patterns import replace_nodes
from ._patterns import times


_EMBEDDINGS = ("wte", "embed", "embedding", "tok_emb", "token_embedding", "tok_embeddings")
_HEADS = ("lm_head", "head", "unembed")


def apply(module: cst.Module) -> cst.Module | None:
    """Make ``self.lm_head(h)`` into ``F.linear(h * width**-0.5, self.wte.weight)``.

    The head's own matrix stays in the model, unused and without gradient, so that optimisers that
    list it go on working.
    """
    if not has_name(module, "F"):
        return None
    head = m.Call(func=m.Attribute(m.Name("self"), _one_of(_HEADS)), args=[m.Arg()])
    embedding = m.Call(func=m.Attribute(attr=_one_of(_EMBEDDINGS)), args=[m.Arg()])
    tie = m.AssignTarget(m.Attribute(m.Attribute(attr=_one_of(_HEADS)), m.Name("weight")))
    if any(m.matches(target, tie) for target in find(module, cst.AssignTarget)):
        return None
    for forward in methods(module, "forward", ""):
        calls = find(forward, cst.Call)
        heads = [c for c in calls if m.matches(c, head)]
        embeddings = [c for c in calls if m.matches(c, embedding)]
        if len(heads) == 1 and len(embeddings) == 1:
            table = module.code_for_node(embeddings[0].func)

            def change(old: cst.Call, table: str = table) -> cst.Call:
                hidden = times(old.args[0].value, f"{table}.embedding_dim**-0.5")
                weight = cst.parse_expression(f"{table}.weight")
                linear = cst.Attribute(cst.Name("F"), cst.Name("linear"))
                return cst.Call(linear, [cst.Arg(hidden), cst.Arg(weight)])

            return replace_nodes(module, {heads[0]: change})
    return None


def _one_of(names: tuple[str, ...]) -> m.Name:
    return m.Name(m.MatchIfTrue(lambda text: text in names))
