"""Asynchrony may not choose: responses that take long are trained on as often as they are sampled."""

import random
from collections.abc import Sequence
from math import sqrt
from pathlib import Path

import numpy as np
import pytest

from benchmarks.survival import platform, runs
from benchmarks.survival.audit import trained_groups
from tests.support.simulator.responses import SimulatorOptions, draw_length

pytestmark = pytest.mark.timeout(600)

STEPS, LONGEST = 30, 256
SAMPLING = {"mean_tokens": 40.0, "sigma": 1.2}
"""Log-normal: the middle response has 20 tokens, one in forty 200 and more."""
SIGNIFICANCE = 1.95
"""Of the two-sample Kolmogorov-Smirnov test at 0.1 %, by the size of the samples."""


def distance(first: Sequence[int], second: Sequence[int]) -> float:
    """Kolmogorov-Smirnov statistic D, in units of its critical value: above 1 the samples differ."""
    values = np.unique(np.concatenate([first, second]))
    shares = [np.searchsorted(np.sort(sample), values, side="right") / len(sample) for sample in (first, second)]
    n, m = len(first), len(second)
    return float(np.abs(shares[0] - shares[1]).max()) / (SIGNIFICANCE * sqrt((n + m) / (n * m)))


@pytest.mark.slow
def test_lengths_trained_on_are_distributed_as_those_sampled(toy: Path, tmp_path: Path) -> None:
    spec = runs.simulated(toy, STEPS, asynchrony={"max_staleness": 4})
    finished = platform.train(
        tmp_path / "run", spec, lambda pid, steps: None, **runs.simulator(step_s=0.02, **SAMPLING)
    )
    journal = finished.journal
    assert finished.violations(runs.promise(spec)) == []

    sizes = {group: journal.issued[group].group_size for group in trained_groups(journal)}
    groups = [[journal.completions[group, at].response_tokens for at in range(size)] for group, size in sizes.items()]
    trained = [length for group in groups for length in group]
    rng, options = random.Random(0), SimulatorOptions(**SAMPLING)
    sampled = [min(LONGEST, draw_length(options, rng)) for _ in range(20_000)]
    assert len(trained) == STEPS * 8 * 4
    assert distance(trained, sampled) < 1
    # What it would look like if the two fifths of the groups that take longest were left behind.
    fast = sorted(groups, key=max)[: len(groups) * 3 // 5]
    assert distance([length for group in fast for length in group], sampled) > 1
