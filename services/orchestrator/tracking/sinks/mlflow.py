"""MLflow, by the client of its tracking API."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from dapo.spec.load import show_tree
from dapo.spec.paths import file_path
from dapo.spec.tree.tracking import MlflowSpec
from dapo.spec.wording import scalar_text
from services.orchestrator.tracking.sink import Row, Told, TrackedRun, Trained
from services.orchestrator.tracking.values import evaluation_values, step_values

_TAG = "dapo.run_id"
_STATUS = {"succeeded": "FINISHED", "stopped": "KILLED", "cancelled": "KILLED", "failed": "FAILED"}
_TAG_CHARACTERS, _PARAM_CHARACTERS = 5_000, 500
_PARAMS = 100
"""In one request, as servers have it."""


class MlflowSink:
    """One MLflow run, found again by its tag. MLflow's histories only grow: the first word on a step stands."""

    rewinds: ClassVar[bool] = False
    forgets: ClassVar[bool] = False

    def __init__(self, spec: MlflowSpec) -> None:
        self._spec = spec

    def begin(self, run: TrackedRun, told: Told) -> None:
        uri = self._spec.tracking_uri
        if (folder := file_path(uri)) is not None:
            uri = (run.run_dir / folder).absolute().as_uri()
        self._client = client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(self._spec.experiment)
        experiment = found.experiment_id if found is not None else client.create_experiment(self._spec.experiment)
        earlier = client.search_runs([experiment], f"tags.`{_TAG}` = '{run.run_id}'", max_results=1)
        if earlier:
            self._id = earlier[0].info.run_id
            client.update_run(self._id, status="RUNNING")
            there = earlier[0].data.params
        else:
            self._id = client.create_run(experiment, run_name=run.run_id, tags={_TAG: run.run_id}).info.run_id
            there = {}
        # A begin that failed has left some out.
        params = [one for one in _params(show_tree(run.spec)) if one.key not in there]
        for start in range(0, len(params), _PARAMS):
            client.log_batch(self._id, params=params[start : start + _PARAMS])

    def step(self, row: Row, record: int, trained: Trained | None) -> None:
        self._log(row["step"], step_values(row))

    def evaluation(self, row: Row, record: int) -> None:
        self._log(row["step"], evaluation_values(row))

    def alert(self, message: str) -> None:
        self._client.set_tag(self._id, "dapo.alert", message[:_TAG_CHARACTERS])

    def end(self, state: str, message: str) -> None:
        self._client.log_batch(self._id, tags=[RunTag("dapo.message", message[:_TAG_CHARACTERS])])
        self._client.set_terminated(self._id, _STATUS[state])

    def close(self) -> None:
        """The client holds nothing between two calls."""

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        now_ms = time.time_ns() // 1_000_000
        self._client.log_batch(self._id, metrics=[Metric(name, value, now_ms, step) for name, value in values.items()])


def _params(tree: Mapping[str, Any], path: str = "") -> Iterator[Param]:
    """MLflow lets none change."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _params(value, f"{path}{name}.")
        else:
            yield Param(path + name, scalar_text(value)[:_PARAM_CHARACTERS])
