from __future__ import annotations

from collections.abc import Iterator
from functools import cache
import itertools
import sys
import types

import libcst as cst
import pytest
from script_fixtures import SCRIPTS
import torch
from torch import nn
import torch.nn.functional as F

from optuna_arrl.script import InvalidScript
from optuna_arrl.script import normalised_hash
from optuna_arrl.script import Script
from optuna_arrl.script.catalogue import CATALOGUE


STYLES = ("target", "nanochat")
NAMES = [edit.name for edit in CATALOGUE]
SEQ_LEN, VOCAB_SIZE, STEPS = 32, 64, 40
# The target, small enough to train in a second.
SMALL = {"DEPTH": 3, "MODEL_DIM": 32, "HEAD_DIM": 16, "WINDOW": 32, "BFLOAT16": False}


class FakeEnvironment(types.ModuleType):
    """``frozen_env`` as a box has it: two batches of random tokens, over and over."""

    SEQ_LEN = SEQ_LEN
    VOCAB_SIZE = VOCAB_SIZE
    DEVICE = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__("frozen_env")
        self.losses: list[float] = []
        self.served = 0

    def batches(self, batch_size: int, length: int = SEQ_LEN) -> Iterator[tuple]:
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(VOCAB_SIZE, (2, batch_size, length + 1), generator=generator)
        for i in itertools.count():
            self.served = i
            yield tokens[i % 2, :, :-1], tokens[i % 2, :, 1:]

    def budget_used(self) -> float:
        return self.served / STEPS

    def report(self, step: int, loss: float) -> None:
        self.losses.append(loss)


@pytest.fixture
def environment(monkeypatch) -> Iterator[FakeEnvironment]:
    environment = FakeEnvironment()
    monkeypatch.setitem(sys.modules, "frozen_env", environment)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield environment
    torch.set_num_threads(threads)


@cache
def small_script(style: str) -> Script:
    script = Script(SCRIPTS[style])
    if style == "nanochat":
        return script
    sizes = {
        slot.param_name: slot.to_param(SMALL[slot.name])
        for slot in script.active.values()
        if slot.name in SMALL
    }
    assert len(sizes) == len(SMALL)
    return Script(script.render(sizes))


def load(source: str, monkeypatch) -> types.ModuleType:
    module = types.ModuleType("train")
    monkeypatch.setitem(sys.modules, "train", module)  # dataclasses look it up
    exec(compile(source, "train.py", "exec"), module.__dict__)
    return module


def cases() -> list:
    return [
        pytest.param(style, name, id=f"{style}-{name.removeprefix('catalogue.')}")
        for style in STYLES
        for name in NAMES
        if name in Script(SCRIPTS[style]).active
    ]


def loss_of(model: nn.Module, environment: FakeEnvironment) -> float:
    inputs, targets = next(environment.batches(8))
    with torch.no_grad():
        return F.cross_entropy(model(inputs).flatten(0, 1).float(), targets.flatten()).item()


def assert_causal(model: nn.Module) -> None:
    """A prefix's logits are the same whatever follows, alone, and among other sequences."""
    generator = torch.Generator().manual_seed(1)
    one, other = torch.randint(VOCAB_SIZE, (2, 4, SEQ_LEN), generator=generator)
    with torch.no_grad():
        whole = model(one)
        for t in (1, 2, 13, SEQ_LEN - 1):
            mixed = torch.cat((one[:, :t], other[:, t:]), dim=1)
            torch.testing.assert_close(model(mixed)[:, :t], whole[:, :t], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(model(one[:, :t]), whole[:, :t], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model(one[:1]), whole[:1], rtol=1e-4, atol=1e-4)
        # And the test can see: the last token does change the last logits.
        last = one.clone()
        last[:, -1] = (last[:, -1] + 1) % VOCAB_SIZE
        assert not torch.allclose(model(last)[:, -1], whole[:, -1], atol=1e-4)


def test_every_edit_applies_to_one_of_the_scripts_and_most_to_the_target():
    applying = {style: set(Script(SCRIPTS[style]).active) & set(NAMES) for style in STYLES}
    assert applying["nanochat"] == set(NAMES)
    assert len(applying["target"]) >= 8


@pytest.mark.parametrize(("style", "name"), cases())
def test_an_edit_trains_and_stays_causal(style, name, environment, monkeypatch):
    script = small_script(style)
    module = load(script.render({name: True}), monkeypatch)
    model = module.build_model()
    assert model(torch.zeros(2, 5, dtype=torch.long)).shape == (2, 5, VOCAB_SIZE)
    before = loss_of(model, environment)
    environment.served = 0
    module.train(model)
    after = loss_of(model, environment)
    assert after < before - 0.2  # nats per token; memorising 2 batches of random tokens
    assert len(environment.losses) > 2
    assert_causal(model.eval())


@pytest.mark.parametrize(("style", "name"), cases())
def test_an_edit_changes_what_the_model_computes(style, name, environment, monkeypatch):
    def logits(params):
        torch.manual_seed(0)
        model = load(small_script(style).render(params), monkeypatch).build_model()
        generator = torch.Generator().manual_seed(2)
        # Past the initialisation, where projections are zero.
        for tensor in model.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
        with torch.no_grad():
            return model(torch.arange(20).view(2, 10))

    if name == "catalogue.normal_projections":  # an edit of the initialisation itself
        model = load(small_script(style).render({name: True}), monkeypatch).build_model()
        stds = [p.std().item() for n, p in model.named_parameters() if "proj.weight" in n]
        assert len(stds) == 6 + 2 * (style == "nanochat")
        assert all(0.015 < std < 0.025 for std in stds)
    else:
        assert not torch.allclose(logits({}), logits({name: True}), atol=1e-3)


@pytest.mark.parametrize("style", STYLES)
def test_every_new_weight_is_initialised_and_trained(style, environment, monkeypatch):
    # A model made on the meta device has only what init_weights gives it.
    script = small_script(style)
    gates = {"catalogue.gated_mlp": True, "catalogue.gated_attention": True}
    module = load(script.render(gates), monkeypatch)
    model = module.build_model()
    before = {n: p.clone() for n, p in model.named_parameters() if "gate" in n}
    assert len(before) == 2 * script.active["DEPTH"].default
    for name, weight in before.items():
        bound = weight.abs().max()
        assert bound == 0 if "attn" in name else 0 < bound < 2
    module.train(model)
    for name, weight in model.named_parameters():
        assert name not in before or not torch.equal(weight, before[name])


@pytest.mark.parametrize("style", STYLES)
def test_all_edits_together_train_and_stay_causal(style, environment, monkeypatch):
    script = small_script(style)
    everything = {name: True for name in NAMES if name in script.active}
    module = load(script.render(everything), monkeypatch)
    model = module.build_model()
    before = loss_of(model, environment)
    environment.served = 0
    module.train(model)
    assert loss_of(model, environment) < before - 0.2
    assert_causal(model.eval())


@pytest.mark.parametrize("style", STYLES)
def test_all_pairs_compile_and_run(style, environment, monkeypatch):
    script = small_script(style)
    names = [name for name in NAMES if name in script.active]
    ids = torch.zeros(1, 3, dtype=torch.long)
    hashes = set()
    for pair in itertools.combinations(names, 2):
        source = script.render(dict.fromkeys(pair, True))
        hashes.add(normalised_hash(source))
        model = load(source, monkeypatch).build_model()
        assert torch.isfinite(model(ids)).all()
    # Every pair is another script, but GELU leaves SiLU nothing to do.
    pairs = len(names) * (len(names) - 1) // 2
    assert len(hashes) == pairs
    assert script.render({"catalogue.gelu": True, "catalogue.silu": True}) == script.render(
        {"catalogue.gelu": True}
    )


@pytest.mark.parametrize(("style", "name"), cases())
def test_an_edit_does_not_apply_where_it_is_already_so(style, name):
    rendered = Script(SCRIPTS[style]).render({name: True})
    assert name not in Script(rendered).active


def test_no_edit_applies_to_scripts_of_another_kind():
    for style in set(SCRIPTS) - set(STYLES):
        module = cst.parse_module(SCRIPTS[style])
        assert [edit.name for edit in CATALOGUE if edit.applies(module)] == []


def test_literals_keep_their_values_under_an_edit():
    script = Script(SCRIPTS["nanochat"])
    rendered = script.render({"catalogue.token_shift": True, "MATRIX_LR": 0.03})
    expected = Script(script.render({"MATRIX_LR": 0.03})).render({"catalogue.token_shift": True})
    assert rendered == expected
    assert "MATRIX_LR = 0.03\n" in rendered and "def shift_half(x):" in rendered


def test_a_literal_in_code_that_an_edit_removes_is_ignored():
    source = SCRIPTS["nanochat"].replace("F.relu(x).square()", "F.relu(x) ** 2")
    script = Script(source, activate=["MLP.forward.x.**"])
    plain = script.render({"catalogue.gelu": True})
    assert script.render({"catalogue.gelu": True, "MLP.forward.x.**": 3}) == plain


def test_switches_are_off_in_the_unmodified_script():
    script = Script(SCRIPTS["nanochat"])
    assert [script.defaults()[name] for name in NAMES] == [False] * len(NAMES)
    assert script.render(dict.fromkeys(NAMES, False)) == SCRIPTS["nanochat"]


@pytest.mark.parametrize(
    ("comment", "active"),
    [
        ("# arrl: catalogue off", []),
        ("# arrl: catalogue tied_embeddings gelu", ["gelu", "tied_embeddings"]),
    ],
)
def test_a_comment_of_its_own_restricts_the_catalogue(comment, active):
    source = f"{comment}\n{SCRIPTS['nanochat']}"
    script = Script(source)
    assert [n for n in script.active if n in NAMES] == [f"catalogue.{name}" for name in active]
    added = Script(source, activate=["catalogue.silu"])
    assert "catalogue.silu" in added.active


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("# arrl: catalogue", "line 1: write `# arrl: catalogue off`"),
        ("# arrl: catalogue swiglo", "line 1: 'swiglo' is no edit of the catalogue"),
        ("# arrl: catalogue glu", "did you mean 'gelu'"),
        ("X = 1  # arrl: catalogue off", "line 1: .* a line of its own"),
    ],
)
def test_a_wrong_catalogue_comment_is_refused(line, message):
    with pytest.raises(InvalidScript, match=message):
        Script(line + "\n")


def test_a_soft_cap_that_is_a_condition_already_is_left_alone():
    source = "def f(x, cap):\n    return cap * torch.tanh(x / cap){}\n"
    assert "catalogue.no_softcap" in Script(source.format("")).active
    assert "catalogue.no_softcap" not in Script(source.format(" if cap else x")).active


@pytest.mark.parametrize(
    "square",
    ["F.relu({}).square()", "F.relu({}) ** 2", "F.relu({}).pow(2)", "torch.square(F.relu({}))"],
)
def test_relu_squared_is_found_however_it_is_written(square):
    script = Script(f"def f(x):\n    return {square.format('x')}\n")
    assert script.render({"catalogue.silu": True}) == "def f(x):\n    return F.silu(x)\n"


def test_inserted_lines_end_as_the_script_does():
    source = SCRIPTS["nanochat"].replace("\n", "\r\n").replace("    ", "\t")
    rendered = Script(source).render(dict.fromkeys(NAMES, True))
    assert rendered.count("\n") == rendered.count("\r\n") > source.count("\r\n")
    assert "\n\t\tgate = " in rendered and "    " not in rendered.replace("  #", "")
