"""How surely the truncated-prefix probe catches a leak, and what one that it misses is worth.

The losses are those of the shipped target, trained once under its profile. A leak is put into
them at a share of the positions, by raising the true next token's logit or by moving the loss.
Everything after that is the scorer's own: which positions are probed, bounds, charge.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from optuna_arrl import TrainScriptObjective
from optuna_arrl.frozen_env.evaluation import draw_probe
from optuna_arrl.frozen_env.evaluation import validation_windows
from optuna_arrl.frozen_env.prepare import prepare
from optuna_arrl.frozen_env.profiles import PROFILES
from optuna_arrl.objective import runner as runner_module
from optuna_arrl.objective.runner import _DENSER
from optuna_arrl.objective.runner import TrialRunner
from optuna_arrl.objective.scorer import _PRECISIONS
from optuna_arrl.objective.scorer import leak_of


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


def _boosted(nats: NDArray[np.float64], boost: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Losses after the true token's logit was raised by ``boost``."""
    return np.asarray(nats - boost + np.log1p(np.exp(-nats) * np.expm1(boost)))


Draw = Callable[[NDArray[np.float64], np.random.Generator], NDArray[np.float64]]
_LEAKS: dict[str, Draw] = {
    "+3 nats": lambda nats, rng: _boosted(nats, 3.0),
    "+8 nats": lambda nats, rng: _boosted(nats, 8.0),
    "+8 nats, improbable targets only": lambda nats, rng: _boosted(nats, 8.0),
    "hardest targets raised to p = 0.02": lambda nats, rng: np.minimum(nats, -np.log(0.02)),
    "+0.2 nats": lambda nats, rng: _boosted(nats, 0.2),
    "±0.2 nats, 55 % of them for the better": lambda nats, rng: (
        nats - np.where(rng.random(nats.shape) < 0.55, 0.2, -0.2)
    ),
}
_CASES = [
    *(("float32", "+3 nats", share) for share in (0.1, 0.01, 0.0022, 0.0004)),
    *(("float32", "+8 nats", share) for share in (0.01, 0.0022, 0.0004)),
    *(("float32", "+8 nats, improbable targets only", share) for share in (0.01, 0.0022, 0.0004)),
    *(
        ("float32", "hardest targets raised to p = 0.02", share)
        for share in (0.01, 0.004, 0.002, 0.001, 0.0005)
    ),
    *(("bfloat16", "+3 nats", share) for share in (0.0022, 0.0004)),
    # The shipped target names bfloat16, so these are the bounds of every trial of it.
    *(
        ("bfloat16", "hardest targets raised to p = 0.02", share)
        for share in (0.01, 0.004, 0.002, 0.001, 0.0005)
    ),
    *(("bfloat16", "+0.2 nats", share) for share in (1.0, 0.1, 0.02, 0.01)),
    ("bfloat16", "±0.2 nats, 55 % of them for the better", 1.0),
    ("bfloat16", "±0.2 nats, 55 % of them for the better", 0.01),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("losses", type=Path, help="FILE.npy, made if it is not there")
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument(
        "--positions",
        type=int,
        default=PROFILES["cpu"].probe_positions,
        help=f"a trial that would be the best of its study has {_DENSER} times as many",
    )
    parser.add_argument("--leak", default="", help="only leaks whose name has this in it")
    args = parser.parse_args()
    nats = losses(args.losses)
    prepared = prepare("cpu")
    windows = validation_windows(prepared)
    scored = ~np.isnan(nats)
    bytes_per_token = windows.target_bytes.sum() / scored.sum()
    rng = np.random.default_rng(0)
    print("| logits | leak | at this share | profit, bpb | caught | left to one not caught, bpb |")
    print("|---|---|---|---|---|---|")
    to_bpb = 1.0 / (np.log(2.0) * bytes_per_token)
    for name, leak, share in _CASES:
        if args.leak not in leak:
            continue
        precision = next(p for p in _PRECISIONS.values() if p.name == name)
        caught, profits, gains = 0, [], []
        for _ in range(args.draws):
            leaked = _LEAKS[leak](nats, rng)
            if "hardest" in leak:
                chosen = nats > np.nanquantile(nats, 1.0 - share)
            elif "improbable" in leak:  # the share is of all, taken from the least probable
                chosen = nats > np.nanquantile(nats, 0.75)
                chosen &= rng.random(nats.shape) < share / 0.25
            else:
                chosen = rng.random(nats.shape) < share
            leaked = np.where(chosen, leaked, nats)
            profit = float(np.nanmean(nats - leaked))
            probe = draw_probe(leaked, args.positions, rng)
            difference = (nats - leaked)[probe.window, probe.position]
            found = leak_of(difference, probe, precision)
            profits.append(profit)
            if found.reason is not None:
                caught += 1
            else:
                gains.append(profit - found.profit)
        gain = f"{np.mean(gains) * to_bpb:+.5f}" if gains else "–"
        print(
            f"| {name} | {leak} | {100 * share:g} % | {np.mean(profits) * to_bpb:.5f} | "
            f"{100 * caught / args.draws:.1f} % | {gain} |"
        )


if __name__ == "__main__":
    main()
