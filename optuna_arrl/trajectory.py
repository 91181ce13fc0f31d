"""The storage vocabulary: every attribute key of optuna-arrl, encoded and decoded in one place."""

from __future__ import annotations

from enum import Enum


# What the frozen evaluation can say of a trial. Exactly one per finished trial.
class Outcome(str, Enum):
    """How a trial ended. What the *machine* did (disk full, Ctrl-C) is no outcome: that is FAIL."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    CRASH = "crash"
    OOM = "oom"
    TIMEOUT = "timeout"
    INVALID_EDIT = "invalid_edit"
    REJECTED = "rejected"


FAILURE_BPB = 8.0
"""Value of a trial that did not complete: a uniform guess over bytes, in bits per byte."""

COMPLETED_BPB_CAP = 7.9
"""A completed score is capped here, so that every completed trial is better than every failure."""

RAN_CONSTRAINT = "arrl:ran"
"""Constraint key: -1.0 when the trial ran to a score or was pruned, 1.0 when it failed."""

# Trial user attributes: what people read.
OUTCOME_KEY = "arrl:outcome"  # Outcome.value
REASON_KEY = "arrl:reason"  # one sentence, failures only
VERIFIED_KEY = "arrl:verified"  # bool: scored by the frozen evaluation
ISOLATED_KEY = "arrl:isolated"  # bool: a real sandbox was in force
PARENT_KEY = "arrl:parent"  # int: trial number of the edit's parent
POLICY_VERSION_KEY = "arrl:policy_version"  # int
SECONDS_KEY = "arrl:seconds"  # float: wall seconds of the whole trial
TRAIN_SECONDS_KEY = "arrl:train_seconds"  # float
MEMORY_KEY = "arrl:memory_mb"  # float: peak memory of the tree, from outside
REUSED_FROM_KEY = "arrl:reused_from"  # int: the trial that ran this edit before
EDIT_HASH_KEY = "arrl:edit_hash"  # str: hash of the normalised syntax tree
# Trial system attributes: what the program reads.
ACTION_KEY = "arrl:action"  # Action, <= 4 kB
MEASUREMENT_KEY = "arrl:measurement"  # seconds by part, steps, probe evidence
CURVE_KEY = "arrl:curve"  # list of [percent of budget, training bits per byte]
WORKER_KEY = "arrl:worker"  # {"host", "boot", "pid", "started"} of the process running the trial
BASELINE_KEY = "arrl:baseline"  # bool: the unmodified script
# Study attributes.
MANIFEST_KEY = "arrl:manifest"  # system
ARTIFACTS_KEY = "arrl:artifacts"  # system: address of the artifact folder
SAMPLER_SEED_KEY = "arrl:sampler_seed"  # system
STOPPED_KEY = "arrl:stopped"  # user: which rule ended the study, with its evidence
