"""Operations that change nothing. Each raises RefusedRequest where there is no such run."""

from collections.abc import Sequence
from typing import Any, Literal

from dapo.client.answers.machine import Export, Machine
from dapo.client.answers.reads import Evaluation, GroupLine, Pipeline, SamplePage, Series
from dapo.client.answers.records import DeadLetter, GroupExplanation
from dapo.client.answers.runs import Checkpoint, Identity, Run, RunEvent
from dapo.client.answers.specs import Examination, Preset
from dapo.client.exchange import ANSWER_S, Asking, Request, Stream, given, part
from dapo.client.paths import run_path
from dapo.client.streams import BytesDecoder, EventDecoder, LineDecoder

_PAGE = 1_000
_STREAM_SILENCE_S = 60.0
"""A service says something six times as often."""


def get(run_id: str) -> Asking[Run]:
    """The run as it is now."""
    run: Run = yield Request("GET", run_path(run_id))
    return run


def list_runs(*, states: Sequence[str] = (), name: str = "", labels: Sequence[str] = ()) -> Asking[list[Run]]:
    """The runs of the service, oldest first; of any of `states`, of the spec's `name`, and with all of `labels` (each
    `key` or `key=value`) only, where given."""
    found: list[Run] = []
    cursor = ""
    while True:
        query = given(state=list(states), name=name, label=list(labels), limit=_PAGE, cursor=cursor)
        page = yield Request("GET", "/v1/runs", query=query)
        found += part(page, "runs")
        if not (cursor := part(page, "next") or ""):
            return found


def spec(run_id: str) -> Asking[str]:
    """The spec that the run has, or goes on with, as YAML with every default written out."""
    text: str = part((yield Request("GET", run_path(run_id, "spec"))), "yaml")
    return text


def metrics(
    run_id: str,
    names: Sequence[str] = (),
    *,
    since_step: int = 0,
    until_step: int | None = None,
    points: int | None = None,
) -> Asking[Series]:
    """The run's curves after one step and up to another, of all metrics where none is named; of more than `points`
    steps, 20,000 at most, every n-th."""
    query = given(names=",".join(names), since_step=since_step, until_step=until_step, points=points)
    series: Series = yield Request("GET", run_path(run_id, "metrics"), query=query)
    return series


def pipeline(run_id: str) -> Asking[Pipeline]:
    """What stands where now, and the slowest stage."""
    found: Pipeline = yield Request("GET", run_path(run_id, "pipeline"))
    return found


def samples(
    run_id: str,
    set_name: str = "",
    *,
    step: int | None = None,
    verdict: Literal["", "correct", "wrong"] = "",
    prompt: str = "",
    limit: int = 20,
    cursor: str = "",
) -> Asking[SamplePage]:
    """A page of groups with their responses, the newest first: of an evaluation set, or of training ("").

    `step`: only that step's; `verdict`: only groups with such a response; `prompt`: a row id, or words of the prompt;
    `limit`: 200 at most; `cursor`: of the page before.
    """
    query = given(set=set_name, step=step, verdict=verdict, prompt=prompt, limit=limit, cursor=cursor)
    page: SamplePage = yield Request("GET", run_path(run_id, "samples"), query=query)
    return page


def evaluations(run_id: str) -> Asking[list[Evaluation]]:
    """Every evaluation with its measures and their intervals, oldest first."""
    found: list[Evaluation] = part((yield Request("GET", run_path(run_id, "evaluations"))), "evaluations")
    return found


def groups(run_id: str, states: Sequence[str] = (), *, limit: int = 50) -> Asking[list[GroupLine]]:
    """Groups in any of these ledger states, in any where none is named, the newest first; 1,000 at most."""
    query = given(state=",".join(states), limit=limit)
    found: list[GroupLine] = part((yield Request("GET", run_path(run_id, "groups"), query=query)), "groups")
    return found


def explain(run_id: str, group_id: str) -> Asking[GroupExplanation]:
    """What is known of a group. Raises RefusedRequest where there is no record of it."""
    found: GroupExplanation = yield Request("GET", run_path(run_id, "groups", group_id))
    return found


def dead_letters(run_id: str, count: int = 100) -> Asking[list[DeadLetter]]:
    """What was taken out of circulation, the newest first."""
    query = {"count": count}
    found: list[DeadLetter] = part((yield Request("GET", run_path(run_id, "dead-letters"), query=query)), "letters")
    return found


def checkpoints(run_id: str) -> Asking[list[Checkpoint]]:
    """Those that count, the newest first."""
    found: list[Checkpoint] = part((yield Request("GET", run_path(run_id, "checkpoints"))), "checkpoints")
    return found


def exports(run_id: str) -> Asking[list[Export]]:
    """What `export` was asked for and what became of it, those of the newest step first."""
    found: list[Export] = part((yield Request("GET", run_path(run_id, "exports"))), "exports")
    return found


def export_file(run_id: str, name: str, file: str) -> Stream[bytes]:
    """A file of an export that has succeeded, in pieces. Raises RefusedRequest where there is none."""
    return Stream(Request("GET", run_path(run_id, "exports", name, "files", *file.split("/"))), BytesDecoder)


def logs(run_id: str) -> Asking[list[str]]:
    """The workers that have a log."""
    found: list[str] = part((yield Request("GET", run_path(run_id, "logs"))), "workers")
    return found


def tail(run_id: str, worker: str, lines: int = 100, *, follow: bool = False) -> Stream[str]:
    """The last lines of a worker's log, without their ends; with `follow` then those that come, until the run ends.

    Raises RefusedRequest where there is no such log, ServiceError where the service goes away, ServiceSilent where it
    says nothing for a minute: while nothing is logged it gives a sign of life every ten seconds.
    """
    silence_s = _STREAM_SILENCE_S if follow else ANSWER_S
    query = {"lines": lines, "follow": follow}
    return Stream(Request("GET", run_path(run_id, "logs", worker), query, silence_s=silence_s), LineDecoder)


def events(
    run_id: str, after: str = "", *, follow: bool = True, silence_s: float | None = _STREAM_SILENCE_S
) -> Stream[RunEvent]:
    """The events of the run behind the one with id `after` ("": all), and with `follow` each as it comes, until the run
    ends.

    A service says something every ten seconds: ServiceSilent is raised where it says nothing for `silence_s`; None:
    it is waited for without limit. Raises ServiceError where the service goes away.
    """
    query = given(after=after, follow=None if follow else False)
    return Stream(Request("GET", run_path(run_id, "events"), query, silence_s=silence_s), EventDecoder)


def machine() -> Asking[Machine]:
    """What the service's machine has, what is taken, and which runs wait."""
    found: Machine = yield Request("GET", "/v1/machine")
    return found


def presets() -> Asking[list[Preset]]:
    """The presets of `algorithm`, and what each sets."""
    found: list[Preset] = part((yield Request("GET", "/v1/presets")), "presets")
    return found


def spec_schema() -> Asking[dict[str, Any]]:
    """JSON Schema of a spec, with meanings and defaults."""
    found: dict[str, Any] = yield Request("GET", "/v1/spec-schema")
    return found


def validate(spec_yaml: str, overrides: Sequence[str] = ()) -> Asking[Examination]:
    """What a spec would be as a run there: its problems by field, what it resolves to, what would be started. Starts
    nothing."""
    body = {"spec": spec_yaml, "set": list(overrides)}
    found: Examination = yield Request("POST", "/v1/specs/validate", body=body)
    return found


def whoami() -> Asking[Identity]:
    """Whose token this is, and what it may do."""
    found: Identity = yield Request("GET", "/v1/whoami")
    return found
