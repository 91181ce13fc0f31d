"""What boxes cost: scoring in them, starting them, and the training throughput within.

    python benchmarks/boxes.py scoring runs/scoring.jsonl --pairs 20
    python benchmarks/boxes.py overhead runs/overhead.jsonl --trials 20
    python benchmarks/boxes.py throughput runs/throughput.jsonl --pairs 20

scoring: seconds that the score and the probe of a trained model (one that is not the best so far)
take in their boxes, from the moment each has its task, against loading and scoring the same model
in one plain process with the profile's number of threads, without the start of that process.

overhead: wall seconds of trials in a row less their training and less what scoring took where
every box was started when it was needed; so work that is only moved elsewhere is not counted as
saved.

throughput: training steps in the box against a plain process. Both train at the same time, each on
a core of its own, and change cores from pair to pair, so that they meet one and the same machine.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

import _records
import optuna

from optuna_arrl import ARRLSampler
from optuna_arrl import TrainScriptObjective
from optuna_arrl.frozen_env.prepare import prepare
from optuna_arrl.objective import runner as runner_module
from optuna_arrl.objective import supply
from optuna_arrl.objective.cores import CoreClaim
from optuna_arrl.objective.runner import TrialRunner
from optuna_arrl.trajectory import MEASUREMENT_KEY


# Scores the model of box 1 in this process, as the scorer does from outside.
_IN_PROCESS = """
import json, sys, time
order = json.loads(sys.argv[1])
sys.path.insert(0, order["frozen_env"])
import numpy as np, torch
from pathlib import Path
from safetensors.torch import load_model
from frozen_env import launcher, session
from frozen_env.evaluation import bits_per_byte, token_nats, validation_windows
from frozen_env.prepare import Prepared
from frozen_env.profiles import Profile
import os
profile = Profile(**json.loads(os.environ["ARRL_PROFILE"]))
torch.set_num_threads(profile.threads)
root = Path(order["root"])
prepared = Prepared(root, profile, json.loads((root / "manifest.json").read_text()))
windows = validation_windows(prepared)
start = time.monotonic()
session.open_session(None, 0)
model = launcher._load(order["source"]).build_model()
load_model(model, order["weights"])
model.eval()
total = 0.0
with torch.inference_mode():
    for i in range(0, len(windows.inputs), order["rows"]):
        rows = slice(i, i + order["rows"])
        logits = model(torch.from_numpy(windows.inputs[rows]).long()).float().numpy()
        nats = token_nats(logits, windows.targets[rows])
        total += float(nats[windows.target_bytes[rows] > 0].sum())
seconds = time.monotonic() - start
bpb = bits_per_byte(total, int(windows.target_bytes.sum()))
print(json.dumps({"seconds": seconds, "bpb": bpb}))
"""
# Slots that change neither what a step costs nor whether it diverges.
_FREE = ("WEIGHT_DECAY", "WARMUP_RATIO", "FINAL_LR_RATIO", "MOMENTUM_RAMP_RATIO")


def scoring(records: Path, pairs: int) -> None:
    prepared = prepare("cpu")
    source = TrainScriptObjective(profile="cpu").script.source
    runner = TrialRunner(prepared)
    # What scoring takes by itself; what boxes that start meanwhile take shows in the overhead.
    supply.start_lock = lambda cores: None
    done = _records.load(records)
    with tempfile.TemporaryDirectory() as folder:
        weights, script = Path(folder, "model.safetensors"), Path(folder, "train.py")
        script.write_text(source)
        keep = runner_module.check_finite
        for pair in range(len(done), pairs):
            runner_module.check_finite = lambda path: (  # the only place where weights pass by
                keep(path),
                weights.write_bytes(path.read_bytes()),
            )
            measurement = runner.run(source, seed=pair)
            boxed = measurement.seconds["score"] + measurement.seconds["probe"]
            order = {
                "frozen_env": str(Path(runner_module.__file__).parents[1]),
                "root": str(prepared.root),
                "source": str(script),
                "weights": str(weights),
                "rows": 8,
            }
            answer = subprocess.run(
                [sys.executable, "-c", _IN_PROCESS, json.dumps(order)],
                env={
                    **os.environ,
                    "ARRL_PROFILE": json.dumps(vars(prepared.profile)),
                    "OMP_NUM_THREADS": "1",
                },
                capture_output=True,
                text=True,
                check=True,
            )
            plain = json.loads(answer.stdout)
            if abs(plain["bpb"] - (measurement.val_bpb or 0.0)) > 1e-4:
                raise SystemExit(f"two scores of one model: {plain['bpb']}, {measurement.val_bpb}")
            record = {"boxed": boxed, "plain": plain["seconds"], "sandbox": runner.sandbox.name}
            done.append(record)
            _records.append(records, record)
            print(record, flush=True)
    runner.close()
    ratios = [record["boxed"] / record["plain"] for record in done]
    mean, half = _records.mean_interval(ratios)
    print(
        "scoring in boxes with the probe / in one process: "
        f"mean {mean:.2f} ± {half:.2f} (95 %), {len(ratios)} pairs"
    )


def overhead(records: Path, trials: int) -> None:
    done = {record["way"]: record for record in _records.load(records)}
    for way in ("cold", "warm"):
        if way in done:
            continue
        start_lock = supply.start_lock
        if way == "cold":
            supply.start_lock = lambda cores: None
        try:
            done[way] = {"way": way, **_study(trials)}
        finally:
            supply.start_lock = start_lock
        _records.append(records, done[way])
        print(done[way], flush=True)
    # A trial that is the best so far is probed at more positions: each by its own cold seconds.
    cold = done["cold"]
    score = {
        count: statistics.median(
            s for s, probed in zip(cold["score"], cold["probed"], strict=True) if probed == count
        )
        for count in set(cold["probed"])
    }
    for way, record in done.items():
        n = len(record["train"])
        scored = sum(score[probed] for probed in record["probed"])
        fixed = (record["wall"] - sum(record["train"]) - scored) / n
        parts = "".join(
            f", {part} {statistics.median(record[part]):.2f}" for part in record["parts"]
        )
        print(f"{way}: {fixed:.2f} s a trial beside training and scoring ({n} trials{parts})")


def _study(trials: int) -> dict[str, Any]:
    objective = TrainScriptObjective(profile="cpu")
    fixed = {k: v for k, v in objective.script.defaults().items() if k not in _FREE}
    with tempfile.TemporaryDirectory() as folder:
        sampler = optuna.samplers.PartialFixedSampler(fixed, ARRLSampler(seed=0))
        study = optuna.create_study(
            storage=f"sqlite:///{folder}/study.db",
            sampler=sampler,
            pruner=optuna.pruners.NopPruner(),
        )
        objective.enqueue_baseline(study)
        began = time.monotonic()
        study.optimize(objective, n_trials=trials)
        wall = time.monotonic() - began
        objective.close()
        measured = [t.system_attrs[MEASUREMENT_KEY] for t in study.trials]
        seconds = [m["seconds"] for m in measured]
    parts = ("start", "score_start", "probe_start")
    return {
        "wall": wall,
        "train": [s["train"] + s["save"] for s in seconds],
        "score": [s["score"] + s["probe"] for s in seconds],
        "probed": [m["leak"]["probed"] for m in measured],
        "parts": parts,
        **{part: [s[part] for s in seconds] for part in parts},
    }


def throughput(records: Path, pairs: int) -> None:
    prepared = prepare("cpu")
    source = TrainScriptObjective(profile="cpu").script.source.replace("step % 10", "step % 1")
    runners = {name: TrialRunner(prepared, sandbox=name) for name in ("auto", "none")}
    done = _records.load(records)
    for pair in range(len(done), pairs):
        first_has_core = threading.Event()

        def measure(name: str, first: bool, has_core: threading.Event = first_has_core) -> int:
            if not first:
                has_core.wait()
            claim = CoreClaim.__init__

            def claimed(self: CoreClaim, count: int) -> None:
                claim(self, count)
                has_core.set()

            if first:
                CoreClaim.__init__ = claimed  # type: ignore[method-assign]
            try:
                return runners[name].run(source).steps
            finally:
                CoreClaim.__init__ = claim  # type: ignore[method-assign]

        names = ("auto", "none") if pair % 2 == 0 else ("none", "auto")
        with ThreadPoolExecutor(2) as pool:
            steps = dict(zip(names, pool.map(measure, names, (True, False)), strict=True))
        record = {**steps, "sandbox": runners["auto"].sandbox.name}
        done.append(record)
        _records.append(records, record)
        print(record, flush=True)
    for runner in runners.values():
        runner.close()
    # One core may be faster than the other: a pair of pairs has each way on each core once.
    ratios = [
        ((a["auto"] / a["none"]) * (b["auto"] / b["none"])) ** 0.5
        for a, b in zip(done[::2], done[1::2], strict=False)
    ]
    mean, half = _records.mean_interval(ratios)
    print(f"steps in the box / outside: mean {mean:.3f} ± {half:.3f} (95 %), {len(ratios)} swaps")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["scoring", "overhead", "throughput"])
    parser.add_argument("records", type=Path)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--trials", type=int, default=20)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    match args.what:
        case "scoring":
            scoring(args.records, args.pairs)
        case "overhead":
            overhead(args.records, args.trials)
        case "throughput":
            throughput(args.records, args.pairs)


if __name__ == "__main__":
    main()
