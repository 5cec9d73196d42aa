"""Checkpoints on the page, and an export of one: asked for, waited for, downloaded."""

import json
from pathlib import Path

import pytest

from tests.support.page.browser import Watched


@pytest.fixture(scope="module")
def ended(service, spec) -> str:
    """Id of a run that has ended with a checkpoint."""
    short = spec | {"training": spec["training"] | {"steps": 2}}
    run_id = service.client.create(json.dumps(short))["id"]
    for _ in service.client.events(run_id):
        pass
    return run_id


def test_a_checkpoint_is_exported_and_its_files_are_offered(watched: Watched, ended: str, tmp_path: Path) -> None:
    page = watched.page
    watched.open(f"/runs/{ended}/files")
    page.get_by_text("Nothing is exported yet").wait_for()
    page.get_by_role("button", name="Export step 2").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Weights").select_option("float32")
    assert watched.accessibility() == []
    dialog.get_by_role("button", name="Export").click()
    row = page.get_by_role("region", name="Exports").locator("tbody tr")
    row.wait_for()
    assert "float32" in row.inner_text()
    row.get_by_text("whole").or_(row.locator(".problem")).wait_for(timeout=180_000)
    assert row.locator(".problem").count() == 0, row.inner_text()
    row.locator("summary").click()
    with page.expect_download() as download:
        row.get_by_role("link", name="config.json", exact=True).click()
    download.value.save_as(tmp_path / "config.json")
    assert "architectures" in json.loads((tmp_path / "config.json").read_text())
    assert watched.accessibility() == []
