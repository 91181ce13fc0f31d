"""Models that read the future, each with the probe's verdict off and with the whole protocol on.

With the verdict off a trial completes with the loss of its whole windows, and a fresh box is asked
for the truncated prefix of *every* position: what the leak has earned is known exactly, and so is
how often a probe of as many positions as in a study, drawn again and again, would have found it:
as many as every trial meets, and as many as one meets that would be the best of its study.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
import dataclasses
from dataclasses import dataclass
import math
from pathlib import Path
import random
import shutil
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray
import pytest
from tiny import TINY

from optuna_arrl.frozen_env.corpus import embedded_corpus_file
from optuna_arrl.frozen_env.evaluation import draw_probe
from optuna_arrl.frozen_env.evaluation import Probe
from optuna_arrl.frozen_env.evaluation import token_nats
from optuna_arrl.frozen_env.evaluation import Windows
from optuna_arrl.frozen_env.prepare import prepare
from optuna_arrl.frozen_env.prepare import Prepared
from optuna_arrl.frozen_env.profiles import PROFILES
from optuna_arrl.objective import runner as runner_module
from optuna_arrl.objective.runner import Measurement
from optuna_arrl.objective.runner import TrialRunner
from optuna_arrl.objective.sandbox import choose_sandbox
from optuna_arrl.objective.sandbox import SandboxUnavailable
from optuna_arrl.objective.scorer import answer_windows
from optuna_arrl.objective.scorer import Answers
from optuna_arrl.objective.scorer import Channel
from optuna_arrl.objective.scorer import credited_bits_per_byte
from optuna_arrl.objective.scorer import Leak
from optuna_arrl.objective.scorer import leak_of
from optuna_arrl.objective.scorer import Precision
from optuna_arrl.objective.scorer import probe_leak
from optuna_arrl.trajectory import Outcome


LEAKS = Path(__file__).with_name("leaks")
PROBED = PROFILES["cpu"].probe_positions
PROBED_IF_BEST = runner_module._DENSER * PROBED
DRAWS = 200
LEAST_GAIN = 0.02  # bits per byte
MOST_MISSED = 0.05  # of the draws, by leaks that are meant to slip through
ROWS = 64

NEXT_TOKEN = "the model reads the next token: at "
OF_ITS_BATCH = "the model's answer to one text depends on the other texts of its batch"
BEFORE = "the model's answer depends on what it was asked before"
ON_AVERAGE = (
    f"the model reads the next token: over {PROBED_IF_BEST} probed positions its loss rose by "
)

# What a person is told of each.
QUICK = {
    "block_mean": NEXT_TOKEN,
    "spectral_filter": NEXT_TOKEN,
    "batch_norm": OF_ITS_BATCH,
    "sparse_10_percent": NEXT_TOKEN,
    "only_on_natural_text": NEXT_TOKEN,
    "expert_choice": NEXT_TOKEN,
    "bfloat16_boosts": ON_AVERAGE,
}
SLOW = {
    "no_mask": NEXT_TOKEN,
    "late_positions": NEXT_TOKEN,
    "window_off_by_one": NEXT_TOKEN,
    "norm_over_positions": NEXT_TOKEN,
    "future_histogram": NEXT_TOKEN,
    "only_at_full_length": NEXT_TOKEN,
    "learned_shift": NEXT_TOKEN,
    "rolled_cache": NEXT_TOKEN,
    "test_time_training": OF_ITS_BATCH,
}


@dataclass(frozen=True)
class Exact:
    """A model's answers to the windows, and to every prefix of them.

    Attributes:
        windows: N windows of T tokens.
        nats: (N, T) loss with the whole window in view.
        truncated: (N, T) loss with nothing in view that follows.
        precision: Of the answers.
    """

    windows: Windows
    nats: NDArray[np.float64]
    truncated: NDArray[np.float64]
    precision: Precision

    @property
    def score(self) -> float:
        """Bits per byte, as an evaluator without a probe credits it."""
        return credited_bits_per_byte(self.nats, self.windows.target_bytes)

    @property
    def truncated_score(self) -> float:
        """Bits per byte of the model without the future."""
        return credited_bits_per_byte(self.truncated, self.windows.target_bytes)

    @property
    def gain(self) -> float:
        """What the leak has earned, in bits per byte."""
        return self.truncated_score - self.score

    @property
    def standard_error(self) -> float:
        """Of the gain, over the positions of the text."""
        scored = self.windows.target_bytes > 0
        nats = (self.truncated - self.nats)[scored]
        return self.bits_per_byte(float(nats.std()) / math.sqrt(nats.size))

    def bits_per_byte(self, nats: float) -> float:
        """From nats per scored token."""
        scored, n_bytes = (self.windows.target_bytes > 0).sum(), self.windows.target_bytes.sum()
        return nats * float(scored / n_bytes) / math.log(2.0)

    def found_by(self, probe: Probe) -> Leak:
        difference = (self.truncated - self.nats)[probe.window, probe.position]
        return leak_of(difference, probe, self.precision)

    def drawn_again(self, probed: int) -> list[Leak]:
        """What other draws of so many positions would have found."""
        scored = np.where(self.windows.target_bytes > 0, self.nats, np.nan)
        rngs = map(np.random.default_rng, range(DRAWS))
        return [self.found_by(draw_probe(scored, probed, rng)) for rng in rngs]

    def caught(self) -> str:
        """How often a trial's probe would have found it, in words."""
        counts = [
            sum(leak.reason is not None for leak in self.drawn_again(probed))
            for probed in (PROBED, PROBED_IF_BEST)
        ]
        return (
            f"found by {counts[0]} of {DRAWS} draws of {PROBED} positions and by {counts[1]} of "
            f"{PROBED_IF_BEST:,}"
        )

    @property
    def bound(self) -> float:
        """Of what a leak may earn unseen, in bits per byte."""
        return self.bits_per_byte(self.precision.mean_bound)

    def kept_by(self, leak: Leak) -> float:
        """What the leak has earned after a probe's verdict, in bits per byte."""
        if leak.reason is not None:
            return 0.0
        credited = credited_bits_per_byte(self.nats, self.windows.target_bytes, leak.profit)
        return self.truncated_score - credited


def ask_every_prefix(channel: Channel, windows: Windows) -> NDArray[np.float64]:
    """(N, T) losses; short prefixes first, so that the box never holds what it is asked for."""
    count, length = windows.inputs.shape
    asked = [(t, slice(i, i + ROWS)) for t in range(length) for i in range(0, count, ROWS)]
    answers = channel.answers((windows.inputs[rows, : t + 1] for t, rows in asked), last_only=True)
    nats = np.empty((count, length))
    for (t, rows), logits in zip(asked, answers, strict=True):
        nats[rows, t] = token_nats(logits, windows.targets[rows, t])
    return nats


@pytest.fixture(autouse=True)
def trial_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "trials"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(scope="session")
def sandbox(prepared: Prepared) -> str:
    """What holds here. A leak is stopped by boxes being fresh: that needs no sandbox."""
    secrets = (prepared.private / "val.bin", embedded_corpus_file())
    try:
        return choose_sandbox("auto", secrets=secrets, readable=prepared.folder).name
    except SandboxUnavailable:
        return "none"


@pytest.fixture(scope="session")
def long_prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Ten times the tiny corpus: 0.2 % of its validation text are enough positions to count."""
    corpus, rng = tmp_path_factory.mktemp("long-corpus"), random.Random(0)
    words = ["".join(rng.choices("abdeghiklmnoprstuy", k=rng.randint(2, 7))) for _ in range(300)]
    for number in range(32):
        text = " ".join(rng.choices(words, weights=range(1, 301), k=4000))
        (corpus / f"{number:02}.txt").write_text(text, encoding="utf-8")
    return prepare(TINY, corpus=corpus, cache=tmp_path_factory.mktemp("long-prepared"))


def for_leaks(prepared: Prepared) -> Prepared:
    """With the probe of a real profile, and no score so low that it is refused without a probe."""
    return dataclasses.replace(
        prepared,
        profile=dataclasses.replace(prepared.profile, probe_positions=PROBED),
        manifest={**prepared.manifest, "least_bpb": 0.0},
    )


def source_of(name: str) -> str:
    return (LEAKS / f"{name}.py").read_text() + (LEAKS / "_loop.py").read_text()


def what_it_tries(name: str) -> str:
    words = ast.get_docstring(ast.parse((LEAKS / f"{name}.py").read_text()))
    assert words is not None
    return words


@dataclass(frozen=True)
class Attacked:
    """One set of weights, measured with the defence on and with it off."""

    defended: Measurement
    undefended: Measurement
    exact: Exact


Attack = Callable[..., Attacked]


@pytest.fixture
def attack(tmp_path: Path, sandbox: str, monkeypatch: pytest.MonkeyPatch) -> Attack:
    """Train and measure a script; then measure its weights again, whatever the probe says.

    With the defence on it would be the best of its study, as whoever cheats hopes for.
    """

    def run(name: str, prepared: Prepared, *, comment: str = "") -> Attacked:
        kept = tmp_path / "kept.safetensors"
        found: list[Exact] = []

        def ask_all(
            channel: Channel,
            windows: Windows,
            answers: Answers,
            probe: Probe,
            rng: np.random.Generator,
            **_: Any,
        ) -> Leak:
            truncated = ask_every_prefix(channel, windows)
            exact = Exact(windows, answers.nats, truncated, answers.precision)
            found.append(exact)
            # The verdict, whatever it is, switched off.
            return dataclasses.replace(
                exact.found_by(probe), mean=0.0, standard_error=0.0, spread=0.0, changed=0
            )

        source = source_of(name) + comment
        with monkeypatch.context() as patch:
            patch.setattr(runner_module, "check_finite", lambda path: shutil.copyfile(path, kept))
            defended = TrialRunner(prepared, sandbox=sandbox).run(source, best_so_far=math.inf)
        with monkeypatch.context() as patch:
            patch.setattr(
                runner_module._Trial,
                "_train",
                lambda trial: shutil.copyfile(kept, trial._weights),
            )
            patch.setattr(runner_module, "probe_leak", ask_all)
            undefended = TrialRunner(prepared, sandbox="none").run(source)
        assert undefended.outcome is Outcome.COMPLETE, undefended.reason
        assert undefended.val_bpb == found[0].score
        return Attacked(defended, undefended, found[0])

    return run


def check(name: str, attacked: Attacked, reason: str, record: Any) -> None:
    exact, defended = attacked.exact, attacked.defended
    assert defended.outcome is Outcome.REJECTED, (defended.outcome, defended.reason)
    assert defended.reason.startswith(reason)
    assert defended.val_bpb is None
    record(
        name,
        tries=what_it_tries(name.split()[0]),
        undefended=f"completes, {exact.gain:.4f} bpb better than it is",
        defended=f"rejected: {reason.strip()} …; {exact.caught()}",
    )


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_leak_pays_unguarded_and_is_rejected(
    name: str, prepared: Prepared, attack: Attack, record: Any
) -> None:
    attacked = attack(name, for_leaks(prepared))
    assert attacked.exact.gain >= LEAST_GAIN
    check(name, attacked, (QUICK | SLOW)[name], record)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sparse_1_percent", "sparse_0_2_percent"])
def test_sparse_leak_pays_unguarded_and_is_rejected(
    name: str, long_prepared: Prepared, attack: Attack, record: Any
) -> None:
    attacked = attack(name, for_leaks(long_prepared))
    assert attacked.exact.gain > 3.0 * attacked.exact.standard_error
    check(name, attacked, NEXT_TOKEN, record)


@pytest.mark.slow
def test_sparse_leak_is_rejected_within_the_bounds_of_the_shipped_target(
    long_prepared: Prepared, attack: Attack, record: Any
) -> None:
    name = "sparse_0_2_percent"
    # Whoever names 16-bit arithmetic, as the shipped target does, is given room for rounding.
    attacked = attack(name, for_leaks(long_prepared), comment="# bfloat16\n")
    assert attacked.exact.precision == Precision("float32", 4, 0.25, 0.02, 0.003)
    assert attacked.exact.gain > 3.0 * attacked.exact.standard_error
    check(f"{name} (naming bfloat16)", attacked, NEXT_TOKEN, record)


@pytest.mark.slow
def test_leak_within_the_bounds_earns_no_more_than_they_say(
    prepared: Prepared, attack: Attack, record: Any
) -> None:
    name = "bfloat16_below_bounds"
    attacked = attack(name, for_leaks(prepared))
    exact, defended = attacked.exact, attacked.defended
    assert exact.gain > 3.0 * exact.standard_error
    if defended.outcome is Outcome.COMPLETE:
        assert defended.val_bpb is not None
        assert defended.val_bpb >= exact.truncated_score - exact.bound
    else:
        assert defended.reason.startswith(ON_AVERAGE)
    drawn = [*exact.drawn_again(PROBED), *exact.drawn_again(PROBED_IF_BEST)]
    kept = max(map(exact.kept_by, drawn))
    assert kept <= exact.bound
    record(
        name,
        tries=what_it_tries(name),
        undefended=f"completes, {exact.gain:.4f} bpb better than it is",
        defended=f"keeps {kept:.4f} bpb at most, of {exact.bound:.4f} that the bound allows",
    )


@pytest.mark.slow
def test_box_that_has_seen_the_windows_would_not_give_its_memory_away(
    prepared: Prepared, attack: Attack, record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "remembers_windows"
    prepared = for_leaks(prepared)
    attacked = attack(name, prepared)
    assert attacked.exact.gain >= LEAST_GAIN
    # The probe's own box is first asked once more for what the other has answered.
    check(name, attacked, BEFORE, record)

    # The defence is that the probe asks a box of its own.
    found: list[Leak] = []

    def answer_and_probe(channel: Channel, windows: Windows, rng: np.random.Generator) -> Answers:
        answers = answer_windows(channel, windows, rng)
        nats = np.where(windows.target_bytes > 0, answers.nats, np.nan)
        probe = draw_probe(nats, PROBED_IF_BEST, rng)
        found.append(probe_leak(channel, windows, answers, probe, rng))
        return answers

    monkeypatch.setattr(runner_module, "answer_windows", answer_and_probe)
    monkeypatch.setattr(runner_module, "probe_leak", lambda *_, **__: found[0])
    runner = TrialRunner(prepared, sandbox="none")
    measurement = runner.run(source_of(name), best_so_far=math.inf)
    assert measurement.outcome is Outcome.COMPLETE
    assert measurement.val_bpb is not None
    assert measurement.val_bpb < attacked.exact.truncated_score - LEAST_GAIN


@pytest.mark.slow
@pytest.mark.parametrize("name", ["improbable_tokens", "tilted_noise"])
def test_leak_that_bets_on_the_draw_loses(
    name: str, prepared: Prepared, attack: Attack, record: Any
) -> None:
    exact = attack(name, for_leaks(prepared)).exact
    assert exact.gain > max(3.0 * exact.standard_error, 3.0 * exact.bound)
    drawn = [exact.drawn_again(probed) for probed in (PROBED, PROBED_IF_BEST)]
    kept = [[exact.kept_by(leak) for leak in leaks] for leaks in drawn]
    missed = [sum(each > exact.bound for each in of_one) for of_one in kept]
    record(
        name,
        tries=what_it_tries(name),
        undefended=f"completes, {exact.gain:.4f} bpb better than it is",
        defended=f"keeps more than {exact.bound:.4f} bpb in {missed[0]} of {DRAWS} draws of "
        f"{PROBED} positions and in {missed[1]} of {PROBED_IF_BEST:,}",
    )
    # What is missed by fewer positions misleads a search for a while; it cannot win.
    assert missed[1] <= MOST_MISSED * DRAWS, f"up to {max(kept[1]):.4f} bpb are kept"


@pytest.mark.slow
def test_boxes_cannot_tell_each_other_by_the_page_cache(
    prepared: Prepared, isolating: str, record: Any
) -> None:
    name = "page_cache"
    prepared = for_leaks(prepared)
    silent = source_of(name).replace("CHANNEL = True", "CHANNEL = False")
    honest = TrialRunner(prepared, sandbox="none").run(silent).val_bpb
    assert honest is not None
    undefended = TrialRunner(prepared, sandbox="none").run(source_of(name))
    if undefended.outcome is not Outcome.COMPLETE:
        pytest.skip(f"the page cache of this machine tells nothing: {undefended.reason}")
    assert undefended.val_bpb is not None
    assert undefended.val_bpb < honest - LEAST_GAIN
    defended = TrialRunner(prepared, sandbox=isolating).run(source_of(name))
    record(
        name,
        tries=what_it_tries(name),
        undefended=f"completes, {honest - undefended.val_bpb:.4f} bpb better than it is",
        defended=f"{defended.outcome.value}: {defended.reason}",
    )
    assert defended.outcome in (Outcome.REJECTED, Outcome.CRASH)
