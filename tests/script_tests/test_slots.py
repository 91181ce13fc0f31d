from __future__ import annotations

import ast
import re

import pytest
from script_fixtures import SCRIPTS

from optuna_arrl.script import InvalidScript
from optuna_arrl.script import Script


def names(source: str) -> list[str]:
    return [slot.name for slot in Script(source).slots]


def actives(source: str) -> dict[str, object]:
    return {slot.name: slot.default for slot in Script(source).active.values()}


def test_constants_in_capitals_at_module_level_are_active():
    source = (
        "A = 1\nA_B: float = 0.5\nC, D = (2, [3, -4.5])\nE = {'lr': 1e-3, 'n': dict(k=True)}\n"
        "if A:\n    F = 2**5\n"
        "lower = 6\nG = f(7)\nH = 8 + A\nI = 'text'\n"
        "def f():\n    J = 9\nclass K:\n    L = 10\n"
    )
    assert actives(source) == {
        "A": 1,
        "A_B": 0.5,
        "C": 2,
        "D[0]": 3,
        "D[1]": -4.5,
        "E.lr": 0.001,
        "E.n.k": True,
        "F": 32,
    }


def test_names_say_where_a_literal_is():
    source = (
        "class Block:\n"
        "    def __init__(self, ratio=0.5, *, eps=1e-6):\n"
        "        self.scale = 2.0\n"
        "        self.fc = Linear(8, out=4 * 3)\n"
        "    def go(self):\n"
        "        init.normal_(self.a.weight, std=0.1)\n"
        "        init.normal_(self.b.weight, std=0.2)\n"
        "        group['lr'] = 0.3\n"
        "        return self.x / 5\n"
        "parser.add_argument('--lr', default=0.1)\n"
    )
    assert names(source) == [
        "Block.__init__.ratio",
        "Block.__init__.eps",
        "Block.__init__.scale",
        "Block.__init__.fc.Linear[0]",
        "Block.__init__.fc.Linear.out.*",
        "Block.__init__.fc.Linear.out.*#2",
        "Block.go.normal_.std",
        "Block.go.normal_.std#2",
        "Block.go.lr",
        "Block.go.return./",
        "add_argument(lr).default",
    ]


@pytest.mark.parametrize(
    "source",
    [
        '"""Doc 0.1."""\n',
        'def f():\n    "doc"\n',
        'x = f"{y:3d} {0.5}"\n',
        "import a.b as c\nfrom d import e\n",
        'if __name__ == "__main__":\n    pass\n',
        '__all__ = ["a"]\n__version__ = "1"\n',
        "x = {1: y, 'k': y}\n",
        "x = y['k']\n",
        "SEED = 1\nrandom_seed = 2\n",
        "torch.manual_seed(1337)\nnp.random.seed(3)\nrng = np.random.default_rng(7)\n",
        "split(x, random_state=0)\nparser.add_argument('--seed', type=int, default=42)\n",
        "x: Literal['a', 'b'] = y\ndef f(z: 'Tensor') -> 'Tensor':\n    pass\n",
        "x = 'a' 'b'\nx = b'a'\nx = None\nx = 2j\nx = 1e999\n",
        "match x:\n    case 3 | {'k': 0.5}:\n        pass\n",
    ],
)
def test_what_is_never_a_slot(source):
    assert names(source) == []


@pytest.mark.parametrize("style", SCRIPTS)
def test_names_are_unique_and_survive_formatting_and_comments(style):
    source = SCRIPTS[style]
    script = Script(source)
    newline = "\r\n" if "\r\n" in source else "\n"
    changed = source.replace("= (", "= (  ").replace(newline, "  # remark" + newline, 1)
    changed = changed.replace("# ", "#  ") + f"{newline}# the end{newline}"
    assert changed != source
    found = [slot.name for slot in script.slots]
    assert len(set(found)) == len(found) > 10
    assert [slot.name for slot in Script(changed).slots] == found


def test_slots_know_their_lines():
    source = SCRIPTS["crlf_tabs"]
    lines = source.split("\r\n")
    for slot in Script(source).slots:
        words = re.findall(r"True|(?:\d+[.]?\d*|[.]\d+)(?:e-\d+)?", lines[slot.line - 1])
        assert abs(slot.default) in [ast.literal_eval(word.lstrip("0") or "0") for word in words]


def test_activate_adds_slots_by_name():
    source = "class A:\n    width = 64\nDEPTH = 2  # arrl: fixed\n"
    assert Script(source).defaults() == {}
    script = Script(source, activate=["A.width", "DEPTH"])
    assert script.defaults() == {"log2(A.width)": 6, "DEPTH": 2}


def test_activating_an_unknown_name_suggests_close_ones():
    with pytest.raises(
        ValueError,
        match=r"'DEPHT' is none of the .* slots .*; did you mean 'DEPT",
    ):
        Script("DEPTH = 2\n", activate=["DEPHT"])


def test_a_string_without_choices_cannot_be_activated():
    assert Script("MODE = 'a'\n").active == {}
    with pytest.raises(ValueError, match=r"'MODE' is a string .* `# arrl: choices A B"):
        Script("MODE = 'a'\n", activate=["MODE"])


@pytest.mark.parametrize(
    ("param", "message"),
    [
        (9, "DEPTH = 9 is not from 1 to 8"),
        (True, "DEPTH = True is not from 1 to 8"),
        (2.5, "DEPTH = 2.5 is not from 1 to 8"),
        ("2", "DEPTH = '2' is not from 1 to 8"),
    ],
)
def test_a_value_of_another_type_or_out_of_range_is_refused(param, message):
    (slot,) = Script("DEPTH = 2  # arrl: int 1 8\n").slots
    with pytest.raises(ValueError, match=message):
        slot.from_param(param)


def test_a_choice_keeps_its_type():
    (slot,) = Script("A = 1  # arrl: choices 1 2\n").slots
    with pytest.raises(ValueError, match="A = True is not one of 1, 2"):
        slot.from_param(True)
    (slot,) = Script("B = False\n").slots
    with pytest.raises(ValueError, match="B = 0 is not one of False, True"):
        slot.from_param(0)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = (1,\n", r"line 1 is no valid Python: '\(' was never closed"),
        ("def f():\nreturn 1\n", "line 2 is no valid Python: expected an indented block"),
        ("return 1\n", "line 1 is no valid Python: 'return' outside"),
        ("x = 1\0\n", "null bytes"),
        ("x = 1\n\fy = 2\n", "form feed"),
        ("x = 1\ry = 2\r", "lone carriage return"),
    ],
)
def test_a_broken_script_is_refused_in_a_sentence(source, message):
    with pytest.raises(InvalidScript, match=message):
        Script(source)
