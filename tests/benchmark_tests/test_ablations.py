"""Ablations: every variant plays the same tasks, once."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from safetensors.torch import save_file
import torch

from benchmarks import _records
from benchmarks import ablations
from benchmarks.retraining import without_scores
from optuna_arrl.sampler.learner import shipped_policy
from optuna_arrl.sampler.policy import PolicyNetwork


@pytest.fixture(autouse=True)
def few_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablations, "SIDE_BY_SIDE", 3)


def arguments(path: Path, **given: object) -> argparse.Namespace:
    defaults = {
        "tasks": 3,
        "trials": 12,
        "seed": 7,
        "policy": "acquisition",
        "retrained": None,
        "variants": None,
    }
    return argparse.Namespace(records=path, out=path.with_name("out"), **{**defaults, **given})


def other_weights(folder: Path) -> Path:
    """Write weights that explore otherwise than the acquisition, and score as it does."""
    network, path = PolicyNetwork(), folder / "policy.safetensors"
    with torch.no_grad():
        network.exploration.weight[2] = 1.0
    save_file(network.state_dict(), path)
    return path


def test_what_learned_nothing_is_the_acquisition(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "records.jsonl"
    ablations.run(arguments(path))
    by_name = {record["variant"]: record["log_regret"]["12"] for record in _records.load(path)}
    alone = by_name.pop("acquisition alone")
    for name in by_name.keys() - {"random edits", "PPO in the study"}:
        assert by_name[name] == alone, name
    assert by_name["random edits"] != alone
    ablations.run(arguments(path))  # nothing is missing
    assert len(_records.load(path)) == len(by_name) + 1
    ablations.report(arguments(path))
    assert "| whole network | +0.000 ± 0.000 (1) | 3 |" in capsys.readouterr().out


def test_a_study_that_learns_ends_with_another_policy(tmp_path: Path) -> None:
    network = PolicyNetwork(seed=3)
    save_file(network.state_dict(), tmp_path / "policy.safetensors")
    path = tmp_path / "records.jsonl"
    given = {"policy": tmp_path / "policy.safetensors", "trials": 18}
    ablations.run(arguments(path, variants=["PPO in the study"], **given))
    (record,) = _records.load(path)
    assert record["kl"] > 0.0


def test_without_scores_only_the_exploration_is_left() -> None:
    network = PolicyNetwork(seed=3)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1)
    left = without_scores(network).state_dict()
    scores = {
        f"{head}.{part}" for head in ("residual", "slot_effects") for part in ("weight", "bias")
    }
    for name, weight in network.state_dict().items():
        assert torch.equal(left[name], weight) != (name in scores), name
        assert name not in scores or not left[name].any()


def test_other_weights_are_other_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, path = other_weights(tmp_path), tmp_path / "records.jsonl"
    chosen = ["acquisition alone", "whole network"]
    for name, trials in (("acquisition", 12), (policy, 13)):
        ablations.run(arguments(path, variants=chosen, policy=name, trials=trials))
    first, second = _records.load(path)[1::2]
    assert first["weights"] != second["weights"]
    assert first["log_regret"] != second["log_regret"]
    ablations.report(arguments(path))
    heads = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Policy")]
    assert heads == [
        f"Policy {first['weights']}, studies of 12 trials:",
        f"Policy {second['weights']}, studies of 13 trials:",
    ]


def test_what_is_trained_anew_plays_the_same_tasks(tmp_path: Path) -> None:
    weights, path = tmp_path / "imitation.safetensors", tmp_path / "records.jsonl"
    save_file(PolicyNetwork().state_dict(), weights)
    chosen = ["acquisition alone", "imitation only"]
    ablations.run(arguments(path, variants=chosen, retrained=tmp_path))
    alone, imitated = _records.load(path)
    assert imitated["log_regret"] == alone["log_regret"]  # it has learned nothing yet
    policy, _ = imitated["weights"].split(", ")
    assert policy == shipped_policy("acquisition").sha256[:12]


def test_what_has_no_weights_is_played_once_for_all_policies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, path = other_weights(tmp_path), tmp_path / "records.jsonl"
    chosen = ["acquisition alone", "whole network", "random edits"]
    for name in ("acquisition", policy):
        ablations.run(arguments(path, variants=chosen, policy=name))
    ran = [record["variant"] for record in _records.load(path)]
    assert ran == [*chosen, "whole network"]
    ablations.report(arguments(path))
    parts = json.loads((tmp_path / "out.json").read_text())["policies"]
    assert len(parts) == 2
    for part in parts:
        assert part["less acquisition alone"].keys() == {"whole network", "random edits"}


def test_policies_are_compared_on_the_tasks_of_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "records.jsonl"
    for policy, seed, regret in (("b", 1, 1.0), ("a", 1, 3.0), ("a", 2, 9.0)):
        record = {"variant": "whole network", "weights": policy, "seed": seed, "trials": 12}
        _records.append(path, record | {"log_regret": {"12": [regret, regret]}})
    ablations.report(arguments(path))
    lines = capsys.readouterr().out.splitlines()
    assert lines[
        lines.index("| log regret less that of: whole network of a | 12 | tasks |") + 2
    ] == ("| b | -2.000 ± 0.000 (0) | 2 |")


def test_studies_of_all_lengths_are_told_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "records.jsonl"
    for seed, trials, regrets in (
        (1, 12, {"12": 1.0}),
        (1, 25, {"12": 1.0, "25": 5.0}),  # the same study, longer: it counts once
        (2, 25, {"12": 4.0, "25": 5.0}),
        (3, 12, {"12": 4.0}),
    ):
        for variant, weights, factor in (
            ("acquisition alone", "none", 0),
            ("whole network", "a", 1),
            ("imitation only", "a, b", 2),
        ):
            if variant == "imitation only" and trials == 25:
                continue
            record = {"variant": variant, "weights": weights, "seed": seed, "trials": trials}
            curves = {mark: [factor * value] * 2 for mark, value in regrets.items()}
            _records.append(path, record | {"log_regret": curves})
    ablations.report(arguments(path))
    lines = capsys.readouterr().out.splitlines()
    together = lines[lines.index("Policy a, studies of all lengths:") :]
    # At 12 the means of 1, 1, 4, 4, 4, 4 and of 2, 2, 8, 8; 1.96 standard errors of √.4 and √3.
    assert "| whole network | +3.000 ± 1.240 (2.1e-06) | +5.000 ± 0.000 (0) | 6, 4 |" in together
    assert "| imitation only | +5.000 ± 3.395 (0.0039) | – | 4 |" in together


def test_of_what_was_trained_anew_the_last_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "records.jsonl"
    for variant, weights, seed, regret in (
        ("acquisition alone", "none", 1, 0.0),
        ("acquisition alone", "none", 2, 0.0),
        ("imitation only", "a, old", 1, 9.0),
        ("imitation only", "a, new", 2, 0.5),
    ):
        record = {"variant": variant, "weights": weights, "seed": seed, "trials": 12}
        _records.append(path, record | {"log_regret": {"12": [regret, regret]}})
    ablations.report(arguments(path))
    assert "| imitation only | +0.500 ± 0.000 (0) | 2 |" in capsys.readouterr().out
    (part,) = json.loads((tmp_path / "out.json").read_text())["policies"]
    assert (part["policy"], part["trials a study"]) == ("a", 12)
    assert part["less acquisition alone"] == {
        "imitation only": {"12": [0.5, 0.0, 0.0, 2]},
    }
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
