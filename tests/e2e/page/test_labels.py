"""Labels, notes and priority on the page: written in a dialog, looked for by a click."""

import httpx

from tests.support.page.browser import Watched


def test_labels_and_notes_are_written_on_a_run_and_found_in_the_list(watched: Watched, run: str) -> None:
    page = watched.page
    watched.open(f"/runs/{run}")
    page.get_by_role("button", name="Add labels or notes").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Labels").fill("team=red\nbad key=1")
    dialog.get_by_label("Notes").fill("Why: <b>first</b> try")
    dialog.get_by_role("button", name="Save").click()
    dialog.get_by_role("alert").wait_for()
    assert "bad key" in dialog.get_by_role("alert").inner_text()
    assert watched.accessibility() == []
    assert "422" in watched.mistakes.pop()  # The browser tells of each refusal.
    dialog.get_by_label("Labels").fill("team=red\nfilter=a=b")
    dialog.get_by_role("button", name="Save").click()
    dialog.wait_for(state="hidden")
    page.get_by_text("Why: <b>first</b> try").wait_for()
    found = httpx.get(f"{watched.url}/v1/runs/{run}", trust_env=False).json()
    assert found["labels"] == {"team": "red", "filter": "a=b"}

    page.get_by_role("button", name="filter=a=b").click()
    page.get_by_role("heading", name="Runs").wait_for()
    page.get_by_role("button", name="team=red", pressed=False).click()
    assert page.url.endswith("label=filter%3Da%3Db&label=team%3Dred")
    page.locator("table.runs").get_by_role("link", name=run).wait_for()
    assert page.locator("table.runs tbody tr").count() == 1
    assert watched.accessibility() == []
    page.get_by_role("button", name="team=red", pressed=True).click()
    page.wait_for_function("() => location.hash.endsWith('?label=filter%3Da%3Db')")

    page.get_by_role("link", name=run).click()
    page.get_by_role("button", name="Edit").click()
    dialog.get_by_label("Labels").fill("team=blue")
    dialog.get_by_label("Priority").fill("7")
    dialog.get_by_role("button", name="Save").click()
    page.get_by_role("button", name="team=blue").wait_for()
    found = httpx.get(f"{watched.url}/v1/runs/{run}", trust_env=False).json()
    assert (found["labels"], found["priority"]) == ({"team": "blue"}, 7)
    page.get_by_role("button", name="Edit").focus()
    page.keyboard.press("Enter")
    dialog.wait_for()
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
