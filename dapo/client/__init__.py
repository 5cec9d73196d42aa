"""The typed client of the run API: start runs on a run service, watch them and stop them.

with RunClient.from_env() as client:
    run = client.create(spec_yaml)
    for event in client.events(run["id"]):
        print(event.kind, event.data)
    print(client.get(run["id"])["state"])

AsyncRunClient has the same methods, to be awaited; `events` and `tail` are read with `async for`.
"""

from dapo.client.answers.machine import Export, Machine, QueuedRun
from dapo.client.answers.reads import Evaluation, GroupLine, Pipeline, Sample, SamplePage, Series
from dapo.client.answers.records import DeadLetter, GroupExplanation
from dapo.client.answers.runs import Checkpoint, Identity, Run, RunEvent
from dapo.client.answers.specs import Examination, FieldProblem, Preset
from dapo.client.clients import AsyncRunClient, RunClient
from dapo.client.errors import RefusedRequest, ServiceError, ServiceSilent, SettingsError
from dapo.client.settings import ClientTls

__all__ = [
    "AsyncRunClient",
    "Checkpoint",
    "ClientTls",
    "DeadLetter",
    "Evaluation",
    "Examination",
    "Export",
    "FieldProblem",
    "GroupExplanation",
    "GroupLine",
    "Identity",
    "Machine",
    "Pipeline",
    "Preset",
    "QueuedRun",
    "RefusedRequest",
    "Run",
    "RunClient",
    "RunEvent",
    "Sample",
    "SamplePage",
    "Series",
    "ServiceError",
    "ServiceSilent",
    "SettingsError",
]
