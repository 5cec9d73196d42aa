"""What a service says where its disk is full."""

import json
from pathlib import Path
from typing import Any

import pytest

from dapo.records.identity import RunIdentity, write_identity
from tests.support.disks import fill, small_disk
from tests.support.orchestrator.faces import rest_of
from tests.support.spec import tree


def spec(folder: Path) -> dict[str, Any]:
    model, data = folder / "model", folder / "d.jsonl"
    model.mkdir()
    (model / "config.json").write_text("{}")
    data.write_text('{"prompt": "p", "answer": "a"}\n')
    return tree(model__path=str(model), data__path=str(data))


@pytest.mark.parametrize("leave_kib", [0, 4, 8])
@pytest.mark.parametrize("key", ["", "nightly"])
def test_a_run_that_does_not_fit_is_refused_and_nothing_of_it_stays(tmp_path: Path, key: str, leave_kib: int) -> None:
    wanted = {"spec": spec(tmp_path), "labels": {"team": "x"}}
    with small_disk(tmp_path / "state", 1024) as state:
        fill(state, leave_kib)
        rest = rest_of(state)
        found = rest.post("/v1/runs", json=wanted, headers={"Idempotency-Key": key} if key else {})
        assert (found.status_code, found.json()["type"]) == (507, "urn:dapo:problem:storage")
        assert "the disk is full" in found.json()["detail"]
        assert "Free some space" in found.json()["detail"]
        assert "run_dir" not in found.json()["detail"]
        assert not list(state.glob("runs/*"))


def test_a_service_with_a_full_disk_is_not_ready(tmp_path: Path) -> None:
    with small_disk(tmp_path / "state", 1024) as state:
        rest = rest_of(state)
        assert rest.get("/readyz").status_code == 200
        ballast = fill(state)
        found = rest.get("/readyz")
        assert found.status_code == 503
        assert "the disk is full" in found.json()["detail"]
        ballast.unlink()
        assert rest.get("/readyz").status_code == 200


def test_remarks_that_do_not_fit_are_refused_and_stay_as_they_were(tmp_path: Path) -> None:
    with small_disk(tmp_path / "state", 1024) as state:
        folder = state / "runs" / "old"
        folder.mkdir(parents=True)
        (folder / "spec.yaml").write_text(json.dumps(tree()))
        write_identity(folder, RunIdentity("old", "2026-01-01T00:00:00.000+00:00"))
        (folder / "summary.json").write_text('{"state": "stopped", "message": ""}')
        fill(state)
        rest = rest_of(state)
        found = rest.patch("/v1/runs/old", json={"notes": "x" * 9000})
        assert (found.status_code, found.json()["type"]) == (507, "urn:dapo:problem:storage")
        assert rest.get("/v1/runs/old").json()["notes"] == ""
