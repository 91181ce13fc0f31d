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
from optuna_arrl.sampler.policy import PolicyNetwork


TOOL = Path(__file__).parents[2] / "tools" / "average_exploration.py"


def _make(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
    runpy.run_path(str(TOOL), run_name="__main__")


def test_exploration_is_the_mean_of_the_searches_and_all_else_is_what_is_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = shipped_policy(None).network.state_dict()
    shape = shipped["exploration.weight"].shape
    searched = []
    for value in (1.0, 2.0, 6.0):
        searched.append(tmp_path / f"{value}.safetensors")
        weights = {
            "exploration.weight": torch.full(shape, value),
            "log_scale": torch.tensor(value),
        }
        save_file(weights, searched[-1])
    out = tmp_path / "out.safetensors"
    _make(monkeypatch, out, *searched)
    made = load_file(out)
    assert made.keys() == shipped.keys()
    assert torch.equal(made.pop("exploration.weight"), torch.full(shape, 3.0))
    assert made.pop("log_scale") == 3.0
    assert all(torch.equal(weight, shipped[name]) for name, weight in made.items())
    # Of 1, 2 and 6 the standard deviation is 7 ** .5, the mean's error (7 / 3) ** .5.
    assert f"{3.0 / (7 / 3) ** 0.5:.4f}" in capsys.readouterr().out


def test_the_rest_may_be_that_of_other_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, searched = PolicyNetwork(1).state_dict(), PolicyNetwork(2, scale=2.0).state_dict()
    trained["residual.bias"] += 1.0
    save_file(trained, tmp_path / "trained.safetensors")
    save_file(searched, tmp_path / "searched.safetensors")
    out = tmp_path / "out.safetensors"
    _make(
        monkeypatch,
        *(out, "--rest", tmp_path / "trained.safetensors", tmp_path / "searched.safetensors"),
    )
    made = load_file(out)
    assert made["log_scale"] == searched["log_scale"] != trained["log_scale"]
    assert made["residual.bias"] == trained["residual.bias"] != searched["residual.bias"]
    assert torch.equal(made["embed.weight"], trained["embed.weight"])
