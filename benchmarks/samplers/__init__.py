"""Samplers compared: the same tasks, starts, noise and seeds for each (docs/benchmarks.md)."""
