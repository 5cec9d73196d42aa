"""What is done to a run's processes: killed, stopped for a while, cut off from Redis; by a plan that a seed makes."""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import psutil
import redis

Kind = Literal["generator", "engine", "verifier", "learner", "redis", "service"]
Action = Literal["kill", "stop", "cut"]
KINDS: tuple[Kind, ...] = ("generator", "engine", "verifier", "learner", "redis", "service")
"""The service is the run service, with the orchestrator in it: all processes of its runs end with it."""

_MODULES: dict[str, Kind] = {
    "services.generator": "generator",
    "tests.support.simulator.worker": "generator",
    "sglang.launch_server": "engine",
    "tests.support.simulator.engine": "engine",
    "services.verifier": "verifier",
    "services.learner": "learner",
    "tests.support.simulator.learner": "learner",
}
_SHORTEST_S, _LONGEST_S = 1.0, 60.0
"""Of a process that is stopped."""
_LONGEST_REDIS_S = 30.0
"""A Valkey that does not answer for longer is replaced, which counts as a kill."""
_MOST_REDIS_KILLS = 5
"""An embedded Valkey is started again so often in a run."""


@dataclass(frozen=True)
class Strike:
    at: float
    """In steps: 3.5 is half a step of usual length after the third is finished."""
    kind: Kind
    action: Action
    pause_s: float = 0.0
    """Until a stopped process goes on."""
    choice: float = 0.0
    """In [0, 1): which of the processes of this kind."""


def plan_strikes(
    count: int, seed: int, *, steps: int, kinds: Sequence[Kind] = KINDS, scale: float = 1.0
) -> list[Strike]:
    """So many, at uniform times between the second and the last but one step, in order.

    Pauses are log-uniform in 1 … 60 s, times `scale`; of Redis at most 30 s. Of Redis, kills beyond the
    fifth are cut connections instead.
    """
    rng = random.Random(seed)
    strikes: list[Strike] = []
    redis_kills = 0
    for at in sorted(rng.uniform(1.0, max(1.0, steps - 2.0)) for _ in range(count)):
        kind = rng.choice(kinds)
        actions: list[Action] = ["kill", "kill", "kill", "stop"] if kind != "redis" else ["kill", "stop", "cut"]
        action = rng.choice(actions)
        pause_s = scale * _SHORTEST_S * (_LONGEST_S / _SHORTEST_S) ** rng.random()
        if kind == "redis":
            pause_s = min(pause_s, _LONGEST_REDIS_S)
            redis_kills += action == "kill"
            action = "cut" if action == "kill" and redis_kills > _MOST_REDIS_KILLS else action
        strikes.append(Strike(at, kind, action, pause_s if action == "stop" else 0.0, rng.random()))
    return strikes


def kind_of(process: psutil.Process) -> Kind | None:
    """None for a process that is none of a run's own, and for one that is gone."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        command = process.cmdline()
        if command and "valkey-server" in command[0]:
            return "redis"
        return _MODULES.get(command[command.index("-m") + 1]) if "-m" in command else None
    except (psutil.NoSuchProcess, IndexError):
        return None


def victims(root: int, kind: Kind) -> list[psutil.Process]:
    """Processes of this kind below `root`, the run service, oldest first."""
    try:
        service = psutil.Process(root)
        below = sorted(service.children(recursive=True), key=psutil.Process.create_time)
    except psutil.NoSuchProcess:
        return []
    if kind == "service":
        return [service]
    return [process for process in below if kind_of(process) == kind]


def strike(root: int, blow: Strike) -> bool:
    """Whether there was a process to strike. One that is stopped goes on by itself later."""
    found = victims(root, blow.kind)
    if not found:
        return False
    victim = found[int(blow.choice * len(found))]
    try:
        if blow.action == "kill":
            victim.kill()
        elif blow.action == "cut":
            _cut(victim)
        else:
            victim.suspend()
            threading.Timer(blow.pause_s, _go_on, [victim]).start()
    except psutil.NoSuchProcess:
        return False
    return True


def _cut(server: psutil.Process) -> None:
    """Every connection of a Valkey's clients."""
    port = next(one.laddr.port for one in server.net_connections("tcp") if one.status == psutil.CONN_LISTEN)
    try:
        redis.Redis(port=port).client_kill_filter(_type="normal", skipme=True)
    except redis.RedisError:
        return  # It is down already.


def _go_on(process: psutil.Process) -> None:
    if process.is_running():
        os.kill(process.pid, signal.SIGCONT)


class Striker:
    """Carries out a plan while the run's steps go by; told of them by `tick`."""

    def __init__(self, plan: Sequence[Strike]) -> None:
        self._left = list(plan)
        self._steps = 0
        self._step_began = time.monotonic()
        self.done: list[tuple[float, Strike]] = []
        """With the time of time.monotonic."""

    def tick(self, root: int, steps: int, usual_step_s: float) -> list[Strike]:
        """The strikes that were made now. `root` is the run service's pid, `steps` are finished."""
        before = len(self.done)
        now = time.monotonic()
        if steps != self._steps:
            self._steps, self._step_began = steps, now
        share = min(0.99, (now - self._step_began) / usual_step_s)
        while self._left and self._left[0].at <= steps + share:
            if strike(root, self._left[0]):
                self.done.append((now, self._left.pop(0)))
            elif steps <= self._left[0].at + 1:
                break  # It is being started: strike it as soon as it is there.
            else:
                self._left.pop(0)
        return [blow for _, blow in self.done[before:]]

    def counts(self) -> Counter[tuple[Kind, Action]]:
        return Counter((blow.kind, blow.action) for _, blow in self.done)
