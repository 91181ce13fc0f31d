"""How the next edit is chosen."""

from optuna_arrl.sampler.sampler import ARRLSampler


__all__ = ["ARRLSampler"]
