"""Random tasks, studies on them in lock step, and meta-training that learns and can be resumed."""

from __future__ import annotations

from collections.abc import Callable
import copy
import dataclasses
import functools
import json
import math
from pathlib import Path

from click.testing import CliRunner
import pytest
from safetensors.torch import load_file
import torch
from torch import Tensor

from optuna_arrl.cli import main
from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.learner import shipped_policy
from optuna_arrl.sampler.policy import PolicyNetwork
from optuna_arrl.sampler.ppo import Batch
from optuna_arrl.sampler.ppo import ppo_update
from optuna_arrl.sampler.pretraining import search as search_module
from optuna_arrl.sampler.pretraining import training as module
from optuna_arrl.sampler.pretraining.checking import as_in_a_study
from optuna_arrl.sampler.pretraining.checking import compare
from optuna_arrl.sampler.pretraining.checking import summarise
from optuna_arrl.sampler.pretraining.drawing import draw_tasks
from optuna_arrl.sampler.pretraining.drawing import TRAINING_TASKS
from optuna_arrl.sampler.pretraining.episodes import Episodes
from optuna_arrl.sampler.pretraining.episodes import play
from optuna_arrl.sampler.pretraining.runs import HELD_OUT
from optuna_arrl.sampler.pretraining.runs import RunTasks
from optuna_arrl.sampler.pretraining.runs import Worlds
from optuna_arrl.sampler.pretraining.search import search_gradient
from optuna_arrl.sampler.pretraining.surfaces import SurfaceTasks
from optuna_arrl.sampler.pretraining.tasks import Draws
from optuna_arrl.sampler.pretraining.tasks import log_regret
from optuna_arrl.sampler.pretraining.tasks import misnamed
from optuna_arrl.sampler.pretraining.tasks import NO_REGRET
from optuna_arrl.sampler.pretraining.tasks import Tasks
from optuna_arrl.sampler.pretraining.training import Recipe
from optuna_arrl.sampler.pretraining.training import Training
from optuna_arrl.sampler.proposers import Candidates
from optuna_arrl.sampler.surrogate import Surrogate


torch.set_num_threads(1)

TINY = Recipe(
    tasks=4,
    repeats=2,
    candidates=16,
    search_iterations=1,
    imitation_iterations=1,
    ppo_iterations=2,
    horizons=(10,),
)


@functools.cache
def tasks() -> SurfaceTasks:
    return SurfaceTasks.draw(48, seed=1)


@functools.cache
def real_tasks() -> RunTasks:
    return RunTasks.draw(48, seed=1, held_out=True)


def uniform_points(drawn: Tasks, count: int = 200) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return drawn.cube.snap(torch.rand(len(drawn), count, drawn.cube.slots, generator=generator))


def any_legal(history: History, offered: Candidates, surrogate: Surrogate) -> Tensor:
    """A policy that looks at nothing."""
    draws = torch.rand(offered.legal.shape, generator=torch.Generator().manual_seed(len(history)))
    return draws.masked_fill(~offered.legal, -1.0).argmax(1)


def test_tasks_are_a_function_of_their_seed() -> None:
    one, same, other = (SurfaceTasks.draw(4, seed) for seed in (5, 5, 6))
    points = torch.rand(4, 9, 24, generator=torch.Generator().manual_seed(0))
    first, again = (t.evaluate(t.cube.snap(points)) for t in (one, same))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(one.default, other.default)


def test_a_regret_is_one_at_the_default_and_hardly_below_zero_anywhere() -> None:
    drawn = tasks()
    regret, ran = drawn.evaluate(drawn.default[:, None])
    torch.testing.assert_close(regret, torch.ones_like(regret), rtol=1e-3, atol=1e-3)
    assert ran.all()
    regret, ran = drawn.evaluate(uniform_points(drawn))
    assert regret.isfinite().all()
    assert regret[ran].min() > -0.1


def test_tasks_are_of_many_kinds() -> None:
    drawn = tasks()
    _, ran = drawn.evaluate(uniform_points(drawn))
    crashes = 1.0 - ran.float().mean(1)
    assert (crashes == 0.0).any() and (crashes > 0.3).any() and crashes.max() < 0.75
    cube = drawn.cube
    assert cube.dim.min() < 6 and cube.dim.max() > 18
    assert cube.categorical.any() and cube.integer.any() and cube.logarithmic.any()
    assert (cube.family > 0).any(1).float().mean() == pytest.approx(0.35, abs=0.25)
    assert drawn.gated.any() and (drawn.steps > 0).any() and (drawn.noise == 0).any()
    assert drawn.has_default.any() and not drawn.has_default.all()


def test_what_a_closed_gate_hides_makes_no_difference() -> None:
    drawn = SurfaceTasks.draw(32, seed=2)
    row = int(drawn.gated.any(1).nonzero()[0])
    one = drawn[torch.tensor([row])]
    hidden = torch.zeros(24, dtype=torch.bool)
    hidden[one.cube.column_slot[0][one.gated[0]]] = True
    for gate, differs in ((0.9, False), (0.1, True)):
        points = uniform_points(one)[:, :40]
        points[:, :, one.gate[0, 0]] = gate
        points = one.cube.snap(points)
        moved = torch.where(hidden, one.cube.snap(1.0 - points), points)
        alike = [one._columns(x) for x in (points, moved)]
        assert torch.equal(*alike) is not differs


@pytest.mark.parametrize("drawn", [tasks, real_tasks])
def test_tasks_taken_from_a_batch_are_the_same_tasks(drawn: Callable[[], Tasks]) -> None:
    rows = torch.tensor([3, 3, 0])
    points = uniform_points(drawn())
    whole, part = drawn().evaluate(points), drawn()[rows].evaluate(points[rows])
    torch.testing.assert_close(whole[0][rows], part[0])
    assert torch.equal(whole[1][rows], part[1])


def test_real_runs_have_regrets_like_random_surfaces() -> None:
    drawn = real_tasks()
    regret, ran = drawn.evaluate(drawn.default[:, None])
    assert ran.all() and regret.min() >= 0.0 and regret.max() <= 1.0 + 1e-4
    assert (regret > 0.999).float().mean() > 0.7  # the other defaults are about the best
    regret, ran = drawn.evaluate(uniform_points(drawn))
    assert regret[ran].min() > -0.1
    assert 0.3 < ran.float().mean() < 0.98


def test_a_default_is_a_run_of_its_world_where_a_slot_stays_too() -> None:
    drawn = real_tasks()
    inside = drawn.start + drawn.length * drawn.default
    torch.testing.assert_close(inside, drawn.base.gather(1, drawn.slots), atol=2e-3, rtol=0)
    runs = (drawn.history.points == drawn.base[:, None]).all(2)
    assert runs.any(1).all()


def test_a_slot_of_whole_numbers_has_the_levels_between_its_bounds() -> None:
    cube = RunTasks.draw(96, seed=2, held_out=False).cube
    whole = cube.integer & cube.movable
    assert (whole & cube.logarithmic).any() and (whole & ~cube.logarithmic).any()
    # The logarithms at 0 and 1 lie half a unit beyond the lowest and the highest value.
    span = cube.end.exp() - cube.start.exp()
    torch.testing.assert_close(span[whole], cube.levels[whole].float(), atol=0.02, rtol=1e-3)
    torch.testing.assert_close(cube.start.exp()[whole], cube.low[whole] - 0.5)


def test_what_is_learned_on_and_what_is_judged_by_are_different_worlds() -> None:
    losses = Worlds.shipped().history.losses
    for held_out in (False, True):
        drawn = RunTasks.draw(64, seed=3, held_out=held_out).history.losses
        world = (drawn[:, None] == losses).all(2).float().argmax(1)
        assert ((world >= len(losses) - HELD_OUT) == held_out).all()
        assert len(world.unique()) > 6


def test_every_third_seed_stands_for_real_runs() -> None:
    assert [isinstance(draw_tasks(2, seed), RunTasks) for seed in range(4)] == [1, 0, 0, 1]
    below, above = (draw_tasks(2, seed) for seed in (3, TRAINING_TASKS + 2))
    assert isinstance(below, RunTasks) and isinstance(above, RunTasks)
    again = draw_tasks(2, 3)
    assert torch.equal(below.default, again.default)


def test_names_dealt_out_anew_are_the_same_names() -> None:
    family = torch.tensor([[0, 1, 2, 0, 3, 4, 5]]).expand(4000, 7)
    dealt = misnamed(family, Draws(4000, 0))
    assert torch.equal(dealt.sort(1).values, family.sort(1).values)
    assert ((dealt == 0) == (family == 0)).all()
    changed = (dealt != family).any(1)
    assert changed.float().mean() == pytest.approx(0.25, abs=0.03)
    # Where they are dealt out, each goes everywhere equally often.
    assert (dealt[changed] == 3).float().mean(0)[1] == pytest.approx(0.2, abs=0.05)


def test_measurements_scatter_by_the_noise_of_the_task() -> None:
    drawn = tasks()
    measured = drawn.measure(torch.ones(len(drawn), 4000), torch.Generator().manual_seed(0))
    # Half of a t distribution of 4 degrees of freedom lies within ±.741.
    half = (measured - 1.0).abs().median(1).values
    torch.testing.assert_close(half, 0.741 * drawn.noise.double(), rtol=0.1, atol=1e-9)


def test_log_regret_by_hand() -> None:
    found = log_regret(torch.tensor([0.0, 1.0, -0.5, math.inf]))
    expected = [NO_REGRET, 1.0 + NO_REGRET, NO_REGRET, 20.0 + NO_REGRET]
    torch.testing.assert_close(found, torch.tensor(expected).log())


def test_a_study_begins_at_the_default_and_is_a_function_of_its_seed() -> None:
    first, again, other = (play(tasks(), 6, seed, any_legal, candidates=8) for seed in (3, 3, 4))
    assert torch.equal(first.history.points, again.history.points)
    assert torch.equal(first.history.losses, again.history.losses)
    assert not torch.equal(first.history.points, other.history.points)
    begun = tasks().has_default
    assert torch.equal(first.history.points[begun, 0], tasks().default[begun])
    assert (first.history.points[~begun, 0] != tasks().default[~begun]).any(1).all()
    assert first.log_regret.shape == (48, 6)
    torch.testing.assert_close(
        first.log_regret[begun, 0],
        torch.full((int(begun.sum()),), math.log(1.02)),
        atol=2e-3,
        rtol=0,
    )


def test_the_acquisition_beats_blind_edits() -> None:
    acquisition = as_in_a_study(PolicyNetwork(), 0)
    curves = [
        play(tasks(), 20, 0, choose, candidates=64).log_regret
        for choose in (acquisition, any_legal)
    ]
    (row,) = summarise(curves[0] - curves[1], [20])
    assert row.mean < -0.2 and row.p < 0.01


def test_differences_by_hand() -> None:
    differences = torch.tensor([[0.0, -3.0], [0.0, -1.0], [9.0, 0.0], [9.0, 0.0]])
    (row,) = summarise(differences, [2])
    error = math.sqrt(2.0 / 4)  # variance 2 of -3, -1, 0, 0
    assert (row.trials, row.tasks, row.mean, row.better) == (2, 4, -1.0, 0.75)
    assert row.half_width == pytest.approx(1.96 * error)
    assert row.p == pytest.approx(math.erfc(1.0 / error / math.sqrt(2)))


def test_a_network_is_no_better_than_itself() -> None:
    network = PolicyNetwork()
    (lot,) = compare(network, network, tasks=3, trials=4, seed=0)
    assert torch.equal(lot, torch.zeros(3, 4))


def test_a_policy_that_begins_nearly_blind_learns() -> None:
    recipe = dataclasses.replace(
        TINY,
        tasks=12,
        repeats=3,
        horizons=(14,),
        candidates=32,
        search_iterations=0,
        imitation_iterations=8,
        ppo_iterations=10,
        imitation_rate=3e-2,
        learning_rate=1e-2,
    )
    before = PolicyNetwork()
    with torch.no_grad():
        before.log_scale.fill_(math.log(0.1))
    training = Training(recipe, start=copy.deepcopy(before))
    figures = list(training)
    assert figures[-1]["critic_explained"] > 0.4
    drawn = SurfaceTasks.draw(192, seed=77)
    curves = [
        play(drawn, 14, 0, as_in_a_study(n, 0)).log_regret for n in (training.network, before)
    ]
    (row,) = summarise(curves[0] - curves[1], [14])
    assert row.mean < 0.0 and row.p < 0.05


def weights(training: Training) -> Tensor:
    return torch.cat([w.detach().flatten() for w in training.network.parameters()])


def test_training_goes_on_from_a_checkpoint_as_if_never_stopped(tmp_path: Path) -> None:
    whole = Training(TINY)
    list(whole)
    first = Training(TINY)
    next(iter(first))
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(first.checkpoint())
    second = Training(TINY)
    second.resume(checkpoint)
    list(second)
    assert second.iteration == 4
    assert torch.equal(weights(second), weights(whole))
    with pytest.raises(ValueError, match="another recipe"):
        Training(dataclasses.replace(TINY, seed=1)).resume(checkpoint)
    for damaged in (checkpoint.read_bytes()[:-100], b"", b"hi", b"\x80\x02", b"{}"):
        checkpoint.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged: delete it"):
            Training(TINY).resume(checkpoint)


def test_training_never_plays_a_task_that_checks_use() -> None:
    seeds = {TRAINING_TASKS + 10_000 * s + i for s in range(3) for i in range(200)}
    assert min(seeds) == TRAINING_TASKS and len(seeds) == 600


@pytest.mark.parametrize(("discount", "gae_lambda"), [(0.5, 1.0), (1.0, 0.25), (0.9, 0.0)])
def test_an_edit_is_credited_with_what_the_study_gains_later(
    discount: float, gae_lambda: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a critic that expects 1 everywhere: Â = Σ_k (γλ)^k (gain_k + γ - 1)."""
    played: list[Episodes] = []
    learned_from: list[Batch] = []
    monkeypatch.setattr(module, "play", lambda *a, **k: played.append(play(*a, **k)) or played[-1])
    monkeypatch.setattr(
        module, "ppo_update", lambda *a: learned_from.append(a[2]) or ppo_update(*a)
    )
    training = Training(
        dataclasses.replace(
            TINY,
            search_iterations=0,
            imitation_iterations=0,
            discount=discount,
            gae_lambda=gae_lambda,
        )
    )
    with torch.no_grad():
        for weight in training.critic.parameters():
            weight.zero_()
        training.critic.layers[-1].bias.fill_(1.0)
    next(iter(training))

    regret = played[0].log_regret
    gains = regret[:, :-1] - regret[:, 1:]
    trials = gains.shape[1]
    factors = torch.tensor(
        [
            [(discount * gae_lambda) ** (later - t) if later >= t else 0.0 for t in range(trials)]
            for later in range(trials)
        ]
    )
    credit = (gains + discount - 1.0) @ factors
    bound = 4.0 * float(credit.std())
    advantage = learned_from[0].advantage.reshape(trials, -1).T
    torch.testing.assert_close(advantage, credit.clamp(-bound, bound))


def test_horizons_grow_and_early_ones_come_back() -> None:
    recipe = Recipe(
        search_iterations=30, imitation_iterations=30, ppo_iterations=30, horizons=(10, 20, 40)
    )
    played = [recipe.horizon(i) for i in range(30)]
    for begin in (30, 60):  # once more in each stage
        assert [recipe.horizon(i) for i in range(begin, begin + 30)] == played
    assert set(played[:10]) == {10} and set(played[10:20]) == {10, 20}
    assert set(played[20:]) == {20, 40}


def test_the_search_changes_how_much_is_explored_and_later_stages_the_rest() -> None:
    training = Training(dataclasses.replace(TINY, tasks=12))
    stages: dict[str, dict[str, Tensor]] = {}
    start = copy.deepcopy(training.network.state_dict())
    for figures in training:
        stages[figures["stage"]] = copy.deepcopy(training.network.state_dict())
    for name, found in stages["search"].items():
        assert torch.equal(found, start[name]) is (name != "exploration.weight"), name
    for before, after in (("search", "imitation"), ("imitation", "ppo")):
        for name in ("exploration.weight", "log_scale"):  # put back
            assert torch.equal(stages[before][name], stages[after][name])
        assert not torch.equal(stages[before]["residual.weight"], stages[after]["residual.weight"])


def test_a_search_goes_up_the_mean_return(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a study's log regret is linear in the exploration weights, the slope is known."""
    network, drawn = PolicyNetwork(), tasks()[torch.arange(2064) % 48]
    slope = torch.randn(network.exploration.weight.shape, generator=torch.Generator())
    with torch.no_grad():
        network.exploration.weight.copy_(slope.flip(0))

    def linear(played: Tasks, horizon: int, seed: int, policy: PolicyNetwork) -> Episodes:
        assert (len(played), seed) == (2064, 5)
        regret = (policy.exploration.weight.detach() * slope).sum((1, 2))
        return Episodes(History.empty(played.cube), regret[:, None].expand(-1, horizon))

    monkeypatch.setattr(search_module, "play", linear)
    monkeypatch.setattr(search_module, "as_in_a_study", lambda policy, _: policy)
    gradient, _ = search_gradient(network, drawn, 3, seed=5)
    # An entry's standard error is |slope| / sqrt(2064); a regret is a return's negative.
    assert (gradient + slope).abs().max() < 4.5 * float(slope.norm()) / math.sqrt(2064)


def test_the_command_trains_resumes_and_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = functools.partial(Recipe, tasks=2, repeats=2, candidates=8, horizons=(4,))
    monkeypatch.setattr(module, "Recipe", small)
    folder = tmp_path / "policy"
    line = ["pretrain", str(folder), "--iterations", "7", "--seed", "3"]
    result = CliRunner().invoke(main, line)
    assert result.exit_code == 0, result.output
    log = [json.loads(text) for text in (folder / "log.jsonl").read_text().splitlines()]
    assert [figures["iteration"] for figures in log] == [1, 2, 3, 4, 5, 6, 7]
    stages = [figures["stage"] for figures in log]
    assert stages == [*3 * ["search"], *2 * ["imitation"], *2 * ["ppo"]]
    assert json.loads((folder / "recipe.json").read_text())["seed"] == 3
    made = shipped_policy(folder / "policy.safetensors").network.state_dict()
    assert made.keys() == load_file(folder / "policy.safetensors").keys()

    assert "going on after iteration 7" in CliRunner().invoke(main, line).output
    other = CliRunner().invoke(main, [*line[:3], "9"])
    assert other.exit_code == 2 and "another recipe" in other.output
    checked = CliRunner().invoke(main, [*line[:2], "--check", "4", "--trials", "12"])
    assert checked.exit_code == 0 and "after 4 of 4 tasks" in checked.output
    assert json.loads((folder / "check-12.json").read_text())[0]["trials"] == 12


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["empty", "--check", "4"], "train it first"),
        (["broken", "--check", "4"], "weights of a PolicyNetwork"),
        (["broken", "--iterations", "2"], "is damaged: delete it"),
        (
            ["broken", "--check", "65", "--seed", "999999"],
            "not to judge by: with --check 65 it may be 999998 at most",
        ),
        (["new", "--device", "abacus"], "Torch cannot compute on device 'abacus' here"),
        (["/proc/nowhere"], "name a folder of yours"),
        (["new", "--trials", "50"], "--trials is for --check"),
    ],
)
def test_bad_input_of_the_command_is_one_sentence(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "broken"):
        Path(name).mkdir()
    for name in ("policy.safetensors", "checkpoint.pt"):
        Path("broken", name).write_bytes(b"neither")
    result = CliRunner().invoke(main, ["pretrain", *arguments])
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert words in line
