from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution
import pytest

from optuna_arrl.script import InvalidScript
from optuna_arrl.script import Script
from optuna_arrl.script.ranges import infer


def only_slot(source: str):
    (slot,) = Script(source).active.values()
    return slot


@pytest.mark.parametrize(
    ("line", "distribution"),
    [
        ("X = 0.02  # arrl: log 2e-3 0.2", FloatDistribution(0.002, 0.2, log=True)),
        ("X = 0.1 # arrl: linear 0 0.5", FloatDistribution(0.0, 0.5)),
        ("X = 0.1 #arrl:linear 0 0.5# a remark", FloatDistribution(0.0, 0.5)),
        ("X = 0.1  # a remark # arrl: linear 0 0.5", FloatDistribution(0.0, 0.5)),
        ("X = 3  # arrl: int 1 8", IntDistribution(1, 8)),
        ("X = 3  # arrl: int 1 64 log", IntDistribution(1, 64, log=True)),
        ("X = 3000  # arrl: log 1e3 1e5", IntDistribution(1000, 100000, log=True)),
        ("X = -3  # arrl: linear -5 0", IntDistribution(-5, 0)),
        ("X = 96  # arrl: choices 32 48 96", CategoricalDistribution([32, 48, 96])),
        ("X = 0.0  # arrl: choices 0 8 1.5", CategoricalDistribution([0.0, 8.0, 1.5])),
        ('X = "a b"  # arrl: choices "a b" c', CategoricalDistribution(["a b", "c"])),
        ('X = "2"  # arrl: choices 1 2', CategoricalDistribution(["1", "2"])),
        ("x = f(0.4)  # arrl: search", FloatDistribution(0.05, 3.2, log=True)),
        ("x = f(True)  # arrl: search", CategoricalDistribution([False, True])),
    ],
)
def test_comment_sets_the_range(line, distribution):
    assert only_slot(line + "\n").distribution == distribution


def test_pow2_comment_searches_the_exponent():
    slot = only_slot("BATCH = 32  # arrl: pow2 4 128\n")
    assert slot.param_name == "log2(BATCH)"
    assert slot.distribution == IntDistribution(2, 7)
    assert (slot.to_param(32), slot.from_param(7)) == (5, 128)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("X = 0.1  # arrl: lgo 1e-3 1", r"line 2: `# arrl: lgo 1e-3 1` is not understood; write"),
        ("X = 0.1  # arrl:", "line 2: .* is not understood"),
        ("X = 0.1  # arrl: log 1e-3", "line 2: .* needs two bounds; write `# arrl: log LOW HIGH"),
        ("X = 0.1  # arrl: log 1e-3 high", "needs two bounds"),
        ("X = 0.1  # arrl: linear 0 inf", "needs two bounds"),
        ("X = 0.1  # arrl: linear 0 1 log", "needs two bounds"),
        ("X = 0.1  # arrl: linear 1 0", "needs LOW below HIGH"),
        ("X = 0.1  # arrl: log 0 1", "needs a LOW above 0"),
        ("X = 1  # arrl: int 0 8 log", "needs a LOW above 0"),
        ("X = 1  # arrl: int 0 1.5", "needs whole bounds"),
        ("X = 8  # arrl: pow2 4 100", "needs powers of two as bounds"),
        ("X = 8  # arrl: choices 8", "two or more choices"),
        ("X = 8  # arrl: choices 8 8", "two or more choices"),
        ('X = "a"  # arrl: choices "a b', "open quote"),
        ("X = 8  # arrl: fixed 3", "says more than `fixed`"),
        ("X = 9  # arrl: int 1 8", r"line 2: 9 lies outside its own range \(1 to 8\)"),
        ("X = 12  # arrl: pow2 8 16", r"12 lies outside its own range \(powers of two from 8"),
        ("X = 9  # arrl: choices 1 8", r"line 2: 9 lies outside its own range \(choices 1 8\)"),
        ('X = "b"  # arrl: choices a c', "'b' lies outside its own range"),
        ("X = 4.0  # arrl: int 1 8", r"describes none of 4.0 \(float\)"),
        ("X = 1  # arrl: log 0.1 10", r"describes none of 1 \(int\)"),
        ('X = "a"  # arrl: search', r"describes none of 'a' \(str\)"),
        ("X = True  # arrl: int 0 1", r"describes none of True \(bool\)"),
        ("x = f(y)  # arrl: log 1e-3 1", "line 2: .* without a literal"),
        ("SEED = 1  # arrl: int 0 9", "without a literal that may be searched"),
        ("# arrl: log 1e-3 1", "line 2: .* end of the literal's line"),
        ("X = 1, 2  # arrl: [2] int 1 8", r"the line has 2 literals, counted from \[0\]: 1, 2"),
        ("X = 1  # arrl: int 1 8; [0] int 1 9", "speaks of 1 twice"),
    ],
)
def test_wrong_comment_is_refused_with_its_line_and_a_reason(line, message):
    with pytest.raises(InvalidScript, match=message):
        Script(f"import math\n{line}\n")


@pytest.mark.parametrize(
    ("line", "ranges"),
    [
        # All elements of a constant, but the first fitting literal of anything else.
        ("X = (0.8, 0.9)  # arrl: linear 0 1", {"X[0]": 1.0, "X[1]": 1.0}),
        ("x = f(0.8, 0.9)  # arrl: linear 0 1", {"f[0]": 1.0}),
        ("x = f(2, 0.9)  # arrl: linear 0 1.5", {"f[1]": 1.5}),
        ("x = f(0.8, 0.9)  # arrl: [1] linear 0 1", {"f[1]": 1.0}),
        ("x = f(0.8, 0.9)  # arrl: [1] linear 0 1; [0] linear 0 2", {"f[0]": 2.0, "f[1]": 1.0}),
        ("X = 0.1; Y = 0.2  # arrl: linear 0 1", {"X": 1.0, "Y": 1.6}),
        ("X = 0.1; Y = 0.2  # arrl: fixed", {}),
        ("X = (0.1, 0.2)  # arrl: [0] fixed", {"X[1]": 1.6}),
    ],
)
def test_which_literals_of_its_line_a_comment_speaks_of(line, ranges):
    active = Script(line.replace("x =", "y.z =") + "\n").active
    highs = {name.removeprefix("z."): s.distribution.high for name, s in active.items()}
    assert highs == ranges


def test_a_comment_means_the_string_among_its_choices():
    script = Script('add("act", help="which", default="relu")  # arrl: choices relu gelu\n')
    assert list(script.active) == ["add.default"]


@pytest.mark.parametrize(
    ("line", "param", "distribution"),
    [
        ("LR = 0.02", "LR", FloatDistribution(0.0025, 0.16, log=True)),
        ("DROPOUT = 0.1", "DROPOUT", FloatDistribution(0.0, 1.0)),
        ("WARMUP_RATIO = 0.0", "WARMUP_RATIO", FloatDistribution(0.0, 1.0)),
        ("MLP_RATIO = 4.0", "MLP_RATIO", FloatDistribution(0.5, 32.0, log=True)),
        ("MOMENTUM = 0.9", "MOMENTUM", FloatDistribution(0.6, 0.9875)),
        ("BETA_2 = 0.999", "BETA_2", FloatDistribution(0.996, 0.999875)),
        ("WEIGHT_DECAY = 0.1", "WEIGHT_DECAY", FloatDistribution(0.0125, 0.8, log=True)),
        ("WEIGHT_DECAY = 0.0", "WEIGHT_DECAY", FloatDistribution(0.0, 0.3)),
        ("BIAS = -1.5", "BIAS", FloatDistribution(-3.0, 0.0)),
        ("DEPTH = 8", "DEPTH", IntDistribution(4, 16)),
        ("GROUPS = 1", "GROUPS", IntDistribution(1, 4)),
        ("SKIP = 0", "SKIP", IntDistribution(0, 4)),
        ("VOCAB = 50304", "VOCAB", IntDistribution(12576, 201216, log=True)),
        ("WIDTH = 64", "log2(WIDTH)", IntDistribution(4, 8)),
        ("BATCH = 2**14", "log2(BATCH)", IntDistribution(12, 16)),
        ("BATCH = 1 << 4", "log2(BATCH)", IntDistribution(2, 6)),
        ("BIAS = True", "BIAS", CategoricalDistribution([False, True])),
    ],
)
def test_inferred_ranges(line, param, distribution):
    assert only_slot(line + "\n").param_name == param
    assert only_slot(line + "\n").distribution == distribution


_NAMES = st.sampled_from(["LR", "DROP_RATIO", "BETA2", "DECAY", "DEPTH", "STEPS", "X"])


@given(
    st.one_of(
        st.floats(-1e300, 1e300, allow_subnormal=False), st.integers(-(2**53), 2**53)
    ).filter(lambda value: value == 0 or abs(value) > 1e-300),
    _NAMES,
)
def test_an_inferred_range_holds_its_default(value, name):
    search = infer("int" if isinstance(value, int) else "float", value, (name,))
    assert search is not None and search.holds(value)
