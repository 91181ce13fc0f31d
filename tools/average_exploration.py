"""Make weights from searches of several seeds, and all but the exploration of others.

    arrl pretrain runs/0 --iterations 150 --seed 0   # … 3; of commit fbe560b, where all 150 search
    python tools/average_exploration.py OUT runs/0/policy.safetensors … runs/3/policy.safetensors
    python tools/average_exploration.py OUT --rest OTHER.safetensors SEARCHED.safetensors

How much to explore is the mean of what the searches found: each is noise to a good part. All else
(scores, value, forecast) is that of --rest. What the scores of the shipped weights began with was
made so, with --rest the layers of commit 13e476f; weights/recipe.json says more.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.torch import load_file
from safetensors.torch import save_file
import torch

from optuna_arrl.sampler.learner import shipped_policy


_EXPLORATION = "exploration.weight"
_OF_SEARCH = (_EXPLORATION, "log_scale")


def main() -> None:
    """Parse the command line and do as it says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("searched", type=Path, nargs="+")
    parser.add_argument("--rest", type=Path, help="default: the shipped weights")
    args = parser.parse_args()
    weights = {
        name: weight.contiguous()
        for name, weight in shipped_policy(args.rest).network.state_dict().items()
    }
    searches = [load_file(path) for path in args.searched]
    for name in _OF_SEARCH:
        weights[name] = torch.stack([search[name] for search in searches]).mean(0)
    save_file(weights, args.out)
    if len(searches) > 1:
        found = torch.stack([search[_EXPLORATION] for search in searches])
        errors = found.std(0) / len(found) ** 0.5
        print("means:", found.mean(0), "in standard errors:", found.mean(0) / errors, sep="\n")


if __name__ == "__main__":
    main()
