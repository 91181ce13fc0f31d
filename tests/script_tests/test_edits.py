from __future__ import annotations

import ast
import math
from pathlib import Path
import subprocess

from hypothesis import assume
from hypothesis import given
from hypothesis import HealthCheck
from hypothesis import settings
from hypothesis import strategies as st
import libcst as cst
from optuna.distributions import CategoricalDistribution
import pytest
from script_fixtures import SCRIPTS

from optuna_arrl.script import InvalidScript
from optuna_arrl.script import normalised_hash
from optuna_arrl.script import Script
from optuna_arrl.script import unified_diff
from optuna_arrl.script.catalogue import StructuralEdit


def literal_names(script: Script) -> list[str]:
    """Slots that can be searched, those of the catalogue aside."""
    return [slot.name for slot in script.slots if slot.line > 0 and not slot.distribution.single()]


# Every literal that can be searched at all, in every style.
WHOLE = {
    style: Script(source, activate=literal_names(Script(source)))
    for style, source in SCRIPTS.items()
}


def values_of(slot):
    d = slot.distribution
    if isinstance(d, CategoricalDistribution):
        return st.sampled_from(d.choices)
    if isinstance(d.low, int):
        return st.integers(d.low, d.high)
    return st.floats(d.low, d.high)


@st.composite
def edits(draw):
    style = draw(st.sampled_from(sorted(WHOLE)))
    slots = {n: s for n, s in WHOLE[style].active.items() if s.line > 0}
    chosen = draw(st.lists(st.sampled_from(sorted(slots)), max_size=8, unique=True))
    return style, {name: draw(values_of(slots[name])) for name in chosen}


@pytest.mark.parametrize("style", SCRIPTS)
def test_rendering_the_defaults_gives_the_source(style):
    script = WHOLE[style]
    assert script.render({}) == script.render(script.defaults()) == SCRIPTS[style]


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(edits())
def test_what_is_rendered_parses_back_to_the_same_values(edit):
    style, params = edit
    script = WHOLE[style]
    rendered = script.render(params)
    again = Script(rendered)
    before = {slot.name: slot.default for slot in script.slots if slot.line > 0}
    after = {slot.name: slot.default for slot in again.slots if slot.line > 0}
    wanted = before | {
        script.active[name].name: script.active[name].from_param(param)
        for name, param in params.items()
    }
    assert after == wanted
    # As many lines, and those without an edited literal to the byte.
    old, new = SCRIPTS[style].split("\n"), rendered.split("\n")
    touched = {script.active[name].line for name in params}
    assert len(old) == len(new)
    assert all(i in touched or a == b for i, (a, b) in enumerate(zip(old, new, strict=True), 1))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_are_rendered_exactly(value):
    assume(value != 0.5)
    script = Script("X = .5  # arrl: linear -1.7976931348623157e308 1.7976931348623157e308\n")
    rendered = script.render({"X": value})
    read = ast.literal_eval(rendered[4:].partition("#")[0].strip())
    assert read == value and math.copysign(1, read) == math.copysign(1, value)


@pytest.mark.parametrize(
    ("source", "params", "expected"),
    [
        ("LR = 1e-3\n", {"LR": 0.0028}, "LR = 0.0028\n"),
        ("LR = 1e-3\n", {"LR": 0.001}, "LR = 1e-3\n"),
        ("B = 2**14 # x\n", {"log2(B)": 15}, "B = 2**15 # x\n"),
        ("B = 2 ** (14)\n", {"log2(B)": 15}, "B = 2 ** (15)\n"),
        ("B = 1 << 4\n", {"log2(B)": 5}, "B = 1 << 5\n"),
        ("B = 2**4  # arrl: int 1 99\n", {"B": 50}, "B = 50  # arrl: int 1 99\n"),
        ("B = 64\n", {"log2(B)": 5}, "B = 32\n"),
        ("N = 1_000\n", {"N": 2000}, "N = 2_000\n"),
        ("N = 0x18\n", {"N": 25}, "N = 25\n"),
        ("X = - 1.5\n", {"X": -0.5}, "X = -0.5\n"),
        ("A = True\n", {"A": False}, "A = False\n"),
        ("A = (1,\n  2) # é\n", {"A[1]": 3}, "A = (1,\n  3) # é\n"),
        ('P = "a" # arrl: choices a b\n', {"P": "b"}, 'P = "b" # arrl: choices a b\n'),
        ("P = 'a' # arrl: choices a b\n", {"P": "b"}, "P = 'b' # arrl: choices a b\n"),
        (
            'P = "a" # arrl: choices a \'"\\\'\n',
            {"P": '"\\'},
            "P = '\"\\\\' # arrl: choices a '\"\\'\n",
        ),
    ],
)
def test_style_of_the_literal_is_kept(source, params, expected):
    assert Script(source).render(params) == expected


@pytest.mark.parametrize(
    ("expression", "value", "expected"),
    [
        ("2.0**x", -2.0, "(-2.0)**x"),
        ("2.0 .hex()", -2.0, "(-2.0) .hex()"),
        ("(2.0)**x", -2.0, "(-2.0)**x"),
        ("x-2.0", -3.0, "x--3.0"),
        ("x**-2.0", 2.0, "x**2.0"),
    ],
)
def test_a_changed_sign_binds_as_before(expression, value, expected):
    source = f"x = 1\ny = {expression}  # arrl: linear -9 9\n"
    (name,) = Script(source).active
    assert f"y = {expected}  #" in Script(source).render({name: value})


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_tokens_stay_apart():
    source = "def f(x):\n    return-1  # arrl: int -5 5\n"
    assert "return 2  #" in Script(source).render({"f.return": 2})
    source = "y = 'a'if x else 0  # arrl: choices a b\n"
    assert Script(source).render({"y": "b"}) == source.replace("'a'", "'b'")
    source = "y = (1)if x else(True)or z\n"
    script = Script(source, activate=["y", "y#2"])
    assert script.render({"y": 2, "y#2": False}) == "y = (2)if x else(False)or z\n"
    source = "y = 8.if x else 0  # arrl: linear 1 9\n"
    assert "y = 2.5 if x" in Script(source).render({"y": 2.5})


def test_line_ends_tabs_and_byte_order_mark_stay():
    source = "\ufeff" + SCRIPTS["crlf_tabs"]
    script = Script(source)
    assert "\r\n\t" in source and not source.endswith("\n")
    assert script.render(script.defaults()) == source
    assert script.render({"LR": 0.02}) == source.replace("LR = 1e-2", "LR = 0.02")


def test_unknown_and_inactive_parameters_are_refused():
    script = Script("DEPTH = 2\nwidth = 3\n")
    with pytest.raises(ValueError, match="'DEPHT' is no active slot of this script; did you mean"):
        script.render({"DEPHT": 3})
    with pytest.raises(ValueError, match="'width' is no active slot"):
        script.render({"width": 3})
    with pytest.raises(ValueError, match="DEPTH = 99 is not from 1 to 4"):
        script.render({"DEPTH": 99})


def test_a_result_that_does_not_compile_is_refused(monkeypatch):
    def return_at_module_level(module):
        return module.with_changes(body=[*module.body, cst.parse_statement("return 1")])

    edit = StructuralEdit("catalogue.broken", return_at_module_level)
    monkeypatch.setattr("optuna_arrl.script.edits.CATALOGUE", (edit,))
    script = Script("X = 1\n")
    assert script.render({"X": 2}) == "X = 2\n"
    with pytest.raises(InvalidScript, match="line 2 is no valid Python: 'return'"):
        script.render({"catalogue.broken": True})


EQUAL = [
    ("X = 1e-3\n", "X = 0.001\n"),
    ("X = 2**14\n", "X = 16384\n"),
    ("X = 1 << 14\n", "X = 0x4000\n"),
    ("X = -(2**3)\n", "X = -8\n"),
    ("X = 1_000  # c\n", "\n\nX=1000"),
    ("X = 'a'\n", 'X = "a"\r\n'),
    ('"""Doc."""\ndef f():\n    "doc"\n', "def f(): pass\n"),
    ("class A:\n    'doc'\n    x = 1\n", "class A:\n\tx = (1)\n"),
    ("\ufeffX = 1\n", "X = 1\n"),
]
DIFFERENT = [
    ("X = 1\n", "X = 1.0\n"),
    ("X = 1\n", "X = True\n"),
    ("X = 0.0\n", "X = -0.0\n"),
    ("X = -1\n", "X = 1\n"),
    ("X = 2**x\n", "X = 2**y\n"),
    ("X = '1'\n", "X = 1\n"),
    ("X = None\n", "X = ...\n"),
    ("f(a, b)\n", "f(b, a)\n"),
    ("x = 1\n'text'\n", "x = 1\n"),
    ("def f(a, /): pass\n", "def f(a): pass\n"),
    ("async def f(): pass\n", "def f(): pass\n"),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_sources_that_do_the_same_have_one_hash(one, other):
    assert normalised_hash(one) == normalised_hash(other)
    assert len(normalised_hash(one)) == 64


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_sources_that_differ_have_two_hashes(one, other):
    assert normalised_hash(one) != normalised_hash(other)


def test_the_hash_does_not_depend_on_the_python_version():
    # Stored with trials and compared by workers of other versions: it may never change.
    source = "import a\ndef f(x, *, y=2**3):\n    return [x for x in f'{y}' if x]\n"
    assert normalised_hash(source) == (
        "4e5c8f5ebf8297753b4dbd9b2911d3850c28f88bcc13b0f6deed77732fc52ee5"
    )


@pytest.mark.parametrize("source", ["x = (1,\n", "x = 1\0\n"])
def test_hash_of_broken_source_is_refused(source):
    with pytest.raises(InvalidScript):
        normalised_hash(source)


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=40)
@given(edits(), edits())
def test_edits_are_equal_exactly_when_their_values_are(one, other):
    style, params = one
    script = WHOLE[style]
    others = other[1] if other[0] == style else {}
    same = {**script.defaults(), **params} == {**script.defaults(), **others}
    hashes = [normalised_hash(script.render(p)) for p in (params, others)]
    assert (hashes[0] == hashes[1]) == same


# --- Diffs: git itself is the judge.


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "-q", folder], check=True)
    return folder


def apply_with_git(repository: Path, before: str, diff: str, path: str) -> bytes:
    file = repository / path
    file.write_bytes(before.encode())
    if diff:
        subprocess.run(
            ["git", "apply", "--whitespace=nowarn", "-"],
            cwd=repository,
            input=diff.encode(),
            check=True,
            capture_output=True,
        )
    return file.read_bytes()


LINES = st.lists(
    st.tuples(
        st.sampled_from(
            ["", "a", "b", "c = 1", "\td", "é\u2028 x", "-- a", "++ b", "\\ No", "\f"]
        ),
        st.sampled_from(["\n", "\n", "\r\n", "\r\r\n"]),
    ),
    max_size=12,
)


@st.composite
def texts(draw):
    text = "".join(line + end for line, end in draw(LINES))
    return text.rstrip("\r\n") if draw(st.booleans()) else text


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(before=texts(), after=texts(), path=st.sampled_from(["train.py", "my script.py"]))
def test_git_applies_any_diff_to_the_byte(repository, before, after, path):
    diff = unified_diff(before, after, path)
    assert (diff == "") == (before == after)
    assert apply_with_git(repository, before, diff, path) == after.encode()


@pytest.mark.parametrize("style", SCRIPTS)
def test_git_applies_the_diff_of_a_whole_edit(repository, style):
    script = WHOLE[style]
    other = {
        name: next(
            v
            for v in (
                getattr(s.distribution, "low", None),
                *getattr(s.distribution, "choices", ()),
            )
            if v is not None and v != s.to_param(s.default)
        )
        for name, s in script.active.items()
        if s.line > 0 and getattr(s.distribution, "low", None) != s.to_param(s.default)
    }
    after = script.render(other)
    diff = unified_diff(SCRIPTS[style], after)
    assert after != SCRIPTS[style]
    assert apply_with_git(repository, SCRIPTS[style], diff, "train.py") == after.encode()


def test_a_diff_reads_as_git_writes_it():
    assert unified_diff("a\nb\r\nc", "a\nB\r\nc") == (
        "diff --git a/train.py b/train.py\n--- a/train.py\n+++ b/train.py\n"
        "@@ -1,3 +1,3 @@\n a\n-b\r\n+B\r\n c\n\\ No newline at end of file\n"
    )
