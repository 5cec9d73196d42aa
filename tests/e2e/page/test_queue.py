"""The queue on the page: what a run waits for, in which order, and what the machine has left."""

from collections.abc import Iterator

import pytest

from benchmarks.survival import platform, runs
from tests.support.orchestrator.run_service import Service, create
from tests.support.page.browser import Watched, wait_narrow


@pytest.fixture
def narrow(chromium, tmp_path) -> Iterator[Service]:
    """A service that has one run under way at a time."""
    environment = runs.simulator(step_s=0.02, mean_tokens=16)["environment"]
    service = Service(tmp_path, "--max-runs", "1", token="", module=platform.SIMULATED, **environment)
    yield service
    service.close()


def test_runs_that_wait_say_why_change_places_and_are_taken_out(chromium, narrow: Service, spec: dict) -> None:
    first, second, third = (create(narrow, spec)["id"] for _ in range(3))
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(60_000)
    watched = Watched(context.new_page(), f"http://127.0.0.1:{narrow.ready['port']}")
    page = watched.page
    watched.open("/")
    page.locator("tr", has_text=third).get_by_text("place 2").wait_for()
    page.get_by_role("button", name="Queued").click()
    assert page.locator("table.runs tbody tr").count() == 2
    assert page.get_by_role("link", name=first).count() == 0

    page.get_by_role("link", name="2 queued").click()
    rows = page.get_by_role("region", name="The queue").locator("tbody tr")
    rows.nth(1).wait_for()
    assert [rows.nth(at).get_by_role("rowheader").inner_text() for at in range(2)] == [second, third]
    assert "run" in rows.first.inner_text(), "it says why"
    assert watched.accessibility() == []
    page.set_viewport_size({"width": 320, "height": 700})
    wait_narrow(page, 320)
    page.set_viewport_size({"width": 1280, "height": 900})
    page.get_by_role("button", name=f"Raise the priority of {third}").click()
    page.wait_for_function("id => document.querySelector('main tbody tr').innerText.includes(id)", arg=third)
    assert rows.first.locator(".priority b").inner_text() == "1"

    page.get_by_role("link", name=third).click()
    page.get_by_text("Place 1 in the queue").wait_for()
    page.get_by_text("It has not begun").wait_for()
    assert page.get_by_role("button", name="Scale").count() == 0
    for part in ("samples", "groups", "events", "logs", "spec"):
        watched.open(f"/runs/{third}/{part}")
        page.wait_for_function("() => !document.querySelector('main').innerText.includes('Loading')")
        assert page.locator("[role=alert]").count() == 0, part
    assert watched.accessibility() == []
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("group", name="Take it out of the queue?").get_by_role("button", name="Cancel").click()
    page.locator(".state.cancelled").wait_for()
    page.get_by_role("button", name="Resume").wait_for()

    page.get_by_role("button", name="Delete").click()
    dialog = page.get_by_role("dialog", name="Delete this run?")
    dialog.get_by_label("Its checkpoints and exports, too").check()
    assert watched.accessibility() == []
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    page.get_by_role("button", name="Delete").click()
    dialog.get_by_role("button", name="Delete").click()
    page.get_by_role("link", name=first).wait_for()
    page.wait_for_function("id => !document.querySelector('main').innerText.includes(id)", arg=third)

    watched.open(f"/runs/{first}")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("group", name="End it now, without a checkpoint?").get_by_role("button", name="Cancel").click()
    page.locator(".state.cancelled").wait_for()
    watched.open(f"/runs/{second}")
    page.locator(".state.starting, .state.running").wait_for()
    context.close()
    assert watched.mistakes == []
