"""Plans of what is done to a run's processes: a seed's own, within the run, and bearable."""

import os
import subprocess
import sys
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.survival.strikes import KINDS, Strike, plan_strikes, strike, victims
from tests.support.paths import REPO


@given(st.integers(0, 200), st.integers(0, 2**31), st.integers(4, 500), st.floats(0.01, 1.0))
def test_a_plan_lies_within_its_run(count: int, seed: int, steps: int, scale: float) -> None:
    plan = plan_strikes(count, seed, steps=steps, scale=scale)
    assert plan == plan_strikes(count, seed, steps=steps, scale=scale)
    assert len(plan) == count
    assert [blow.at for blow in plan] == sorted(blow.at for blow in plan)
    for blow in plan:
        assert 1 <= blow.at <= steps - 2
        assert (blow.action == "stop") == (blow.pause_s > 0)
        assert blow.pause_s == 0 or scale * 0.999 <= blow.pause_s <= scale * 60.001
        assert blow.action != "cut" or blow.kind == "redis"
    counts = Counter((blow.kind, blow.action) for blow in plan)
    assert counts["redis", "kill"] <= 5


def test_a_plan_strikes_every_kind_and_another_seed_makes_another() -> None:
    plan = plan_strikes(100, 1, steps=100)
    assert {blow.kind for blow in plan} == set(KINDS)
    assert {blow.kind for blow in plan_strikes(100, 1, steps=100, kinds=["engine"])} == {"engine"}
    assert plan != plan_strikes(100, 2, steps=100)


def test_only_the_oldest_process_of_its_kind_is_killed_and_none_of_another_kind() -> None:
    command = [sys.executable, "-m", "tests.support.simulator.engine", "--port", "0"]
    engines = [subprocess.Popen(command, cwd=REPO) for _ in range(2)]
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert [process.pid for process in victims(os.getpid(), "engine")] == [engine.pid for engine in engines]
        assert not strike(os.getpid(), Strike(1.0, "verifier", "kill"))
        assert strike(os.getpid(), Strike(1.0, "engine", "kill"))
        assert engines[0].wait(30) == -9
        assert [process.pid for process in victims(os.getpid(), "engine")] == [engines[1].pid]
        assert bystander.poll() is None
    finally:
        for process in (*engines, bystander):
            process.kill()
            process.wait()
