"""How surely the truncated-prefix probe catches a leak, and what one that it misses is worth.

The losses are those of the shipped target, trained once under its profile. A leak is put into them
at a share of the positions: the true next token's logit is raised there by a boost when the future
is in view. Everything after that is the scorer's own: which positions are probed, bounds, credit.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from optuna_arrl import TrainScriptObjective
from optuna_arrl.frozen_env.evaluation import draw_probe
from optuna_arrl.frozen_env.evaluation import validation_windows
from optuna_arrl.frozen_env.prepare import prepare
from optuna_arrl.objective import runner as runner_module
from optuna_arrl.objective.runner import TrialRunner
from optuna_arrl.objective.scorer import _PRECISIONS


def losses(path: Path) -> NDArray[np.float64]:
    """Nats of every scored target of the trained target; NaN where none is scored."""
    if not path.exists():
        kept = []

        def draw(nats: NDArray[np.float64], *rest: object) -> object:
            kept.append(nats)
            return draw_probe(nats, *rest)  # type: ignore[arg-type]

        runner_module.draw_probe = draw  # type: ignore[assignment]
        runner = TrialRunner(prepare("cpu"))
        runner.run(TrainScriptObjective(profile="cpu").script.source)
        runner.close()
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, kept[0])
    loaded: NDArray[np.float64] = np.load(path)
    return loaded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("losses", type=Path, help="FILE.npy, made if it is not there")
    parser.add_argument("--draws", type=int, default=400)
    args = parser.parse_args()
    nats = losses(args.losses)
    prepared = prepare("cpu")
    windows = validation_windows(prepared)
    scored = ~np.isnan(nats)
    bytes_per_token = windows.target_bytes.sum() / scored.sum()
    rng = np.random.default_rng(0)
    print(
        "| logits | boost | share | profit, bpb | caught | accepted: mean gain after credit, bpb |"
    )
    print("|---|---|---|---|---|---|")
    cases = [("float32", 3.0, s) for s in (0.1, 0.01, 0.0022, 0.0004)]
    cases += [("bfloat16", 3.0, s) for s in (0.01, 0.0022, 0.0004)]
    cases += [("bfloat16", 0.2, s) for s in (1.0, 0.1, 0.02, 0.01)]
    for name, boost, share in cases:
        precision = next(p for p in _PRECISIONS.values() if p.name == name)
        caught, profits, gains = 0, [], []
        for _ in range(args.draws):
            leaks = rng.random(nats.shape) < share
            p = np.exp(-nats)
            leaked = np.where(leaks, nats - boost + np.log1p(p * np.expm1(boost)), nats)
            profit = np.nanmean(nats - leaked)
            probe = draw_probe(leaked, prepared.profile.probe_positions, rng)
            difference = (nats - leaked)[probe.window, probe.position]
            mean = float(probe.weight @ difference)
            profits.append(profit)
            if (
                np.abs(difference) > precision.position_bound
            ).any() or mean > precision.mean_bound:
                caught += 1
            else:
                gains.append(profit - max(0.0, mean))
        to_bpb = 1.0 / (np.log(2.0) * bytes_per_token)
        gain = f"{np.mean(gains) * to_bpb:+.5f}" if gains else "–"
        print(
            f"| {name} | {boost} | {100 * share:g} % | {np.mean(profits) * to_bpb:.5f} | "
            f"{100 * caught / args.draws:.1f} % | {gain} |"
        )


if __name__ == "__main__":
    main()
