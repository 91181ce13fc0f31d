"""Families of slot names: what a name says of a slot's role, for any script."""

from __future__ import annotations

import itertools
import re


__all__ = ["FAMILIES", "name_family"]

_WORDS: dict[str, str] = {
    # family: words of a name that say so, in lower case; the first family that fits is taken
    "warmup": "warmup warm",
    "decay_shape": "warmdown cooldown anneal schedule scheduler final",
    "weight_decay": "wd weightdecay decay l2 l1 alpha lambda regularization reg penalty",
    "learning_rate": "lr lrs rate eta learningrate stepsize",
    "momentum": "momentum beta beta1 beta2 betas nesterov",
    "batch": "batch batchsize minibatch accum accumulation microbatch",
    "depth": "depth layers layer blocks stages estimators",
    "width": "width dim hidden embed embd units channels aspect ratio d_model features ffn mlp",
    "heads": "head heads kv groups experts",
    "dropout": "dropout drop noise smoothing",
    "initialisation": "init scale std gain sigma variance",
    "length": "length seq context window block steps epochs iterations iters",
    "precision": "eps epsilon tol tolerance",
    "clipping": "clip clipping cap softcap max_norm",
}

FAMILIES: tuple[str, ...] = ("unknown", *_WORDS)
"""Names of the families; a slot's family is an index into this."""


def name_family(name: str) -> int:
    """Return the index of the family of a slot's name, 0 for unknown.

    >>> FAMILIES[name_family("EMBEDDING_LR")], FAMILIES[name_family("mlp.hidden_dim")]
    ('learning_rate', 'width')
    """
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower()
    parts = [part for part in re.split(r"[^a-z0-9]+", spaced) if part]
    words = {*parts, *("_".join(pair) for pair in itertools.pairwise(parts))}
    for index, known in enumerate(_WORDS.values(), start=1):
        if words & set(known.split()):
            return index
    return 0
