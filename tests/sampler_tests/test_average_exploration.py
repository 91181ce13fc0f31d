"""The tool that makes shipped weights of several searches."""

from __future__ import annotations

from pathlib import Path
import runpy
import sys

import pytest
from safetensors.torch import load_file
from safetensors.torch import save_file
import torch

from optuna_arrl.sampler.learner import shipped_policy


TOOL = Path(__file__).parents[2] / "tools" / "average_exploration.py"


def test_exploration_is_the_mean_of_the_searches_and_all_else_is_what_is_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = shipped_policy(None).network.state_dict()
    shape = shipped["exploration.weight"].shape
    searched = []
    for value in (1.0, 2.0, 6.0):
        searched.append(tmp_path / f"{value}.safetensors")
        save_file({"exploration.weight": torch.full(shape, value)}, searched[-1])
    out = tmp_path / "out.safetensors"

    monkeypatch.setattr(sys, "argv", [str(TOOL), str(out), *map(str, searched)])
    runpy.run_path(str(TOOL), run_name="__main__")

    made = load_file(out)
    assert made.keys() == shipped.keys()
    assert torch.equal(made.pop("exploration.weight"), torch.full(shape, 3.0))
    assert all(torch.equal(weight, shipped[name]) for name, weight in made.items())
    # Of 1, 2 and 6 the standard deviation is 7 ** .5, the mean's error (7 / 3) ** .5.
    assert f"{3.0 / (7 / 3) ** 0.5:.4f}" in capsys.readouterr().out
