"""What was left of a run that was deleted without its checkpoints."""

from pathlib import Path

from dapo.records.folder import RunFolder
from tests.support.orchestrator.run_service import Service
from tests.support.page.recorded import record_run


def test_the_checkpoints_of_a_deleted_run_are_deleted_later(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "recorded"
    run_id = record_run(folder, 1, 3)
    folder = folder.rename(folder.with_name(run_id))
    RunFolder(folder).checkpoints.mkdir()
    (RunFolder(folder).checkpoints / "weights").write_text("w")
    mine = tmp_path / "runs" / "mine"
    (mine / "checkpoints").mkdir(parents=True)
    (mine / "spec.yaml").write_text("name: x\n")
    (mine / "notes.txt").write_text("of a person")
    service = Service(tmp_path, token="")
    try:
        delete = lambda one, **how: service.http.delete(f"/v1/runs/{one}", params=how).status_code  # noqa: E731
        assert delete(run_id) == 204
        assert sorted(path.name for path in folder.iterdir()) == ["checkpoints", "spec.yaml"]
        assert delete(run_id) == 404, "nothing more of it goes without its checkpoints"
        assert delete(run_id, checkpoints=True) == 204
        assert not folder.exists()
        for other in (run_id, "mine", "..", "none"):
            assert delete(other, checkpoints=True) in (404, 405, 307), other
        assert (mine / "notes.txt").exists()
    finally:
        service.close()
