"""How a run goes on that has stopped: what of its spec may change, and from where it goes on."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, NamedTuple

from dapo.algo.evaluation import reason_to_stop
from dapo.bus.parts.decisions import Decided, Frontier
from dapo.bus.roles import OrchestratorBus
from dapo.records.checkpoints import Checkpoint, CheckpointError, find_newest
from dapo.records.folder import RunFolder
from dapo.records.identity import RunDirError
from dapo.records.json_lines import read_json_lines
from dapo.spec.problem import Problem, SpecError
from dapo.spec.run import RunSpec
from dapo.spec.wording import shown
from services.orchestrator.records.recorder import Recorder
from services.orchestrator.runs.tenure import Tenure

_FIXED = (
    "seed",
    "model",
    "data",
    "lora",
    "sampling.group_size",
    "sampling.max_response_tokens",
    "algorithm.advantage_estimator",
    "algorithm.reference_refresh_steps",
    "evaluation.sets",
    "evaluation.exclude_from_training",
    "training.prompts_per_step",
    "asynchrony.max_staleness",
    "resources.redis.payload_url",
)
"""Fields and sections on which what there is depends: weights and optimizer states, the order of the data (evaluation
sets take prompts out of it), and groups that wait for a batch. All others may change from one start to the next."""


class Change(NamedTuple):
    field: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.field}: {shown(self.before)} → {shown(self.after)}"


def changes(before: RunSpec, after: RunSpec) -> list[Change]:
    """What differs, in the order of the tree. Raises SpecError, naming the field, where that may not differ."""
    found = list(differences(before.model_dump(mode="json"), after.model_dump(mode="json")))
    refused = [change for change in found if any(_within(change.field, fixed) for fixed in _FIXED)]
    if refused:
        raise SpecError(
            [
                Problem(
                    change.field,
                    shown(change.after),
                    f"a run that goes on keeps {shown(change.before)}; start a new run to change it (from what dapo "
                    "export writes, if it is to learn on)",
                )
                for change in refused
            ]
        )
    return found


def _within(field: str, section: str) -> bool:
    return field == section or field.startswith(f"{section}.")


def differences(before: Any, after: Any, path: str = "") -> Iterator[Change]:
    """Between two trees, in their order; `path`: of both within a larger one."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in dict.fromkeys((*before, *after)):
            yield from differences(before.get(name), after.get(name), f"{path}.{name}" if path else name)
    elif before != after:
        yield Change(path, before, after)


def check_goes_on(folder: RunFolder, spec: RunSpec, *, over: bool) -> None:
    """Whether the spec has room for the steps that there are; of a run that has succeeded (`over`), whether anything is
    left to be done. Raises SpecError, naming the field that ends it, RunDirError, OSError."""
    try:
        rows = read_json_lines(folder.metrics) if folder.metrics.exists() else []
        evaluations = read_json_lines(folder.evaluations) if folder.evaluations.exists() else []
    except ValueError as error:
        raise RunDirError(str(error)) from error
    done = rows[-1]["step"] if rows else 0
    if spec.training.steps < done or (over and spec.training.steps == done):
        raise SpecError([_too_few(spec, done)])
    if not over:
        return
    rule = spec.evaluation.early_stopping
    if why := reason_to_stop(rule, evaluations):
        advice = (
            f"the run has ended by this rule, and would end by it again at once: {why}. Give that field another value, "
            "or take the rule away (--set evaluation.early_stopping={})"
        )
        raise SpecError([Problem("evaluation.early_stopping", None, advice)])


async def take_up(
    bus: OrchestratorBus,
    recorder: Recorder,
    previous: RunSpec,
    spec: RunSpec,
    tenure: Tenure,
    end_workers: Callable[[], Awaitable[None]],
) -> str:
    """Make the run's Redis and folder agree on where it goes on, and say where that is. `end_workers`: those that have
    gone on meanwhile, before what they work on is deleted.

    It goes on from Redis where that has all that was decided, else from the newest whole checkpoint: then what Redis
    holds is deleted, the prompts that the checkpoint calls unsettled are issued again, and the records are cut off
    behind it. Raises SpecError for a spec with less steps than were cut, CheckpointError where there is no way on,
    RunDirError where somebody goes on with another Redis.
    """
    found = await asyncio.to_thread(find_newest, RunFolder(recorder.run_dir).checkpoints)
    if found.checkpoint is None and found.damage:
        raise CheckpointError(f"no checkpoint is whole: {'; '.join(found.damage)}. Restore one, or start a new run")
    start = found.checkpoint.manifest.step if found.checkpoint is not None else 0
    if spec != previous:
        # Those that an orchestrator before has left know the other one.
        await tenure.dismiss_workers()
    decided = await bus.decisions.read()
    cut = min(decided.cut, previous.training.steps)
    known = (await bus.runs.read()).get("history", "")
    reason = "another Redis had its latest word" if known != recorder.identity.history else None
    reason = reason or _reason_to_rewind(decided, start, previous, spec, len(recorder.rows))
    if reason is None and start < decided.trained and not await bus.batches.reaches_back(start):
        reason = f"the batches behind step {start} have left the log"
    if reason is None and await _lost_a_batch(bus):
        reason = "Redis has lost the responses of a batch"
    if reason is None:
        if cut > spec.training.steps:
            raise SpecError([_too_few(spec, cut)])
        if not recorder.identity.history:  # it began under an older release
            await recorder.begin_history()
        return f"the run goes on behind step {decided.trained}"
    if start > spec.training.steps:
        raise SpecError([_too_few(spec, start)])
    frontier = _frontier(found.checkpoint)
    await end_workers()
    # First: where this start is cut short, the next one still finds that Redis is not the one.
    await recorder.begin_history()
    # They work on what is deleted now.
    await tenure.dismiss_workers()
    await bus.decisions.begin_at(start, frontier, tenure.epoch)
    await recorder.rewind(start, frontier)
    where = f"from the checkpoint of step {start}" if found.checkpoint is not None else "from its beginning"
    again = (
        f", and issues {len(frontier.unsettled)} prompts again" if frontier is not None and frontier.unsettled else ""
    )
    damage = "".join(f"; damaged: {one}" for one in found.damage)
    return f"the run goes on {where}{again}: {reason}{damage}"


def _reason_to_rewind(decided: Decided, start: int, previous: RunSpec, spec: RunSpec, rows: int) -> str | None:
    """Why Redis alone does not do; None where it does."""
    if decided.trained < max(start, rows):
        return f"Redis knows of {decided.trained} steps only"
    if (early := decided.ending) is not None and decided.cut > early.steps:
        return f"it had ended early, at step {early.steps}"
    ended = decided.cut >= previous.training.steps
    if ended and spec.training.steps > previous.training.steps:
        return f"it had ended at step {previous.training.steps}"
    return None


async def _lost_a_batch(bus: OrchestratorBus) -> bool:
    """Whether nothing is left of the responses of some batch in the log, on which the learner would have to train."""
    after = -1
    while batches := await bus.batches.read(after, block_s=0, count=1):
        (batch,) = batches
        keys = [sample.payload_key for group in batch.groups for sample in group.samples]
        if keys and not await bus.payloads.count(keys):
            return True
        after = batch.batch
    return False


def _too_few(spec: RunSpec, steps: int) -> Problem:
    return Problem("training.steps", str(spec.training.steps), f"the run has come to step {steps} already; give more")


def _frontier(checkpoint: Checkpoint | None) -> Frontier | None:
    """Raises CheckpointError."""
    if checkpoint is None:
        return None
    if checkpoint.manifest.frontier is None:
        raise CheckpointError(
            f"checkpoint {checkpoint.directory.name} is of an older release and does not say what the data had come "
            "to; only Redis could have told. Start a new run from what dapo export writes"
        )
    return Frontier(**checkpoint.manifest.frontier)
