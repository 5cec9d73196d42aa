"""Names of keys. All of a run begin with `dapo:{<run id>}:`; the hash tag keeps a run in one cluster slot."""

import re

PROMPTS = "prompts"
EVALUATIONS = "evaluations"
"""Prompts for the generator that does nothing but evaluate, where there is one."""
COMPLETIONS = "completions"
SCORED = "scored"

CHECKPOINT_WANTED = "checkpoint-wanted"
"""What an orchestrator announces that waits for a checkpoint before it stops; with it the mark of its wish."""
CHECKPOINT_WRITTEN = "checkpoint-written"
"""What the learner announces then: the same mark."""
LEARNER_STEP = "learner-step"
"""What the learner announces whenever it has got on: after each step that it trains, also again, its epoch and the
steps it has done; while it loads, or waits for a checkpoint, how far that is. Only changes count."""

LEFT_OUT = "left-out-{}"
"""What the learner announces of a generator, by its name, that gets no weights for now: why."""

METRICS_ADDRESS = "metrics-{}"
"""What each worker announces of itself, by its name, where it exports metrics: `host:port`."""

READERS = {PROMPTS: "generator", EVALUATIONS: "generator", COMPLETIONS: "verifier", SCORED: "orchestrator"}
"""Stream -> the role that consumes it, which is also the name of its consumer group."""

RUNS = "dapo:runs"
"""Which runs there are. It and the sessions are of no run."""
SESSIONS = "dapo:sessions:"
"""What the keys of the web page's sessions begin with."""
AGENTS = "dapo:agents"
"""Which agents there are (dapo/bus/agents.py); what is known of one is at this name, a colon and its id."""

ORCHESTRATOR, LEARNER, WORKERS = "orchestrator", "learner", "workers"
HELD_ROLES = (ORCHESTRATOR, LEARNER, WORKERS)
"""Roles that one process holds at a time, each with a fencing epoch. That of the workers is their orchestrator's, taken
with its lease, and they act for it: those of an orchestrator that was replaced write no more, unless they
outlive it and its successor takes them over."""


def placed(worker_id: str) -> str:
    """The role of one worker of a run that was given to an agent. Its epoch says to which: a process of before, on an
    agent that was not heard for a while, writes no more."""
    return f"worker:{worker_id}"


GROUP_ID = re.compile(rb"[eg]\d{10}")
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def is_run_id(text: str) -> bool:
    """Whether a run could be called so."""
    return _RUN_ID.fullmatch(text) is not None


class Keys:
    """Key names of one run. Raises ValueError for a run id that could not stand inside a key."""

    def __init__(self, run_id: str) -> None:
        if not is_run_id(run_id):
            raise ValueError(
                f"run id {run_id!r}: use up to 128 letters, digits, '.', '_' or '-', beginning with a letter or digit"
            )
        self.prefix = f"dapo:{{{run_id}}}:"
        self.run = self.prefix + "run"
        self.events = self.prefix + "events"
        self.ledger = self.prefix + "ledger"
        self.open = self.prefix + "open"
        self.garbage = self.prefix + "garbage"
        self.dead = self.prefix + "dead"
        self.log = self.prefix + "log"
        self.passed = self.prefix + "passed"
        self.drained = self.prefix + "drained"
        self.again = self.prefix + "again"
        self.requeued = self.prefix + "requeued"
        self.history = self.prefix + "history"
        self.uniform = self.prefix + "uniform"
        self.resting = self.prefix + "resting"
        self.cuts = self.prefix + "cuts"
        self.evaluating = self.prefix + "evaluating"
        self.ending = self.prefix + "ending"
        self.batches = self.prefix + "batches"
        self.steps = self.prefix + "steps"
        self.members = self.prefix + "members"
        self.lease = self.prefix + "lease"
        self.wishes = self.prefix + "wishes"
        self.placements = self.prefix + "placements"
        self.reports = self.prefix + "reports"
        self.version = self.prefix + "version"
        self.sync = self.prefix + "sync"
        self.payload_bytes = self.prefix + "payload_bytes"
        self.blobs = (self.prefix + "p:", self.prefix + "t:")

    def stream(self, name: str) -> str:
        """Key of a consumed stream. Raises ValueError for any other name."""
        if name not in READERS:
            raise ValueError(f"stream {name!r} is none of {', '.join(READERS)}")
        return self.prefix + name

    def answer(self, wish_id: str) -> str:
        return f"{self.prefix}answer:{wish_id}"

    def group(self, group_id: str) -> str:
        return f"{self.prefix}g:{group_id}"

    def epoch(self, role: str) -> str:
        return f"{self.prefix}epoch:{role}"

    def heartbeat(self, role: str, worker_id: str) -> str:
        return f"{self.prefix}alive:{role}:{worker_id}"

    def address(self, what: str) -> str:
        return f"{self.prefix}address:{what}"

    def commands(self, generator_id: str) -> str:
        return f"{self.prefix}commands:{generator_id}"

    def replies(self, generator_id: str) -> str:
        return f"{self.prefix}replies:{generator_id}"

    def orders(self, rank: int) -> str:
        return f"{self.prefix}orders:{rank}"

    def payload(self, group_id: str, index: int, attempt: int) -> str:
        return f"{self.prefix}p:{group_id}:{index}:{attempt}"

    def partial(self, group_id: str, index: int) -> str:
        return f"{self.prefix}p:{group_id}:{index}:partial"

    def text(self, group_id: str, index: int, attempt: int) -> str:
        return f"{self.prefix}t:{group_id}:{index}:{attempt}"
