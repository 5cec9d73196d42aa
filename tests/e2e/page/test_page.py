"""What a person does on the page: watch, scale, stop, resume, start, read."""

import json
import re
import urllib.request

import pytest

from tests.support.page.browser import Watched, wait_narrow

STEP = re.compile(r"step (\d+) of")


def steps_shown(watched: Watched) -> int:
    found = STEP.search(watched.page.locator(".tile").first.inner_text())
    return int(found[1]) if found else 0


def wait_for_step(watched: Watched, step: int) -> None:
    watched.page.wait_for_function(
        "least => Number(document.querySelector('.tile')?.innerText.match(/step (\\d+) of/)?.[1] ?? 0) >= least",
        arg=step,
        timeout=180_000,
    )


def curve(watched: Watched, title: str) -> str:
    """What a chart says of itself to those who do not see it."""
    return watched.page.locator("figure.chart", has_text=title).locator(".plot").get_attribute("aria-label")


def test_a_run_is_watched_scaled_stopped_and_resumed(watched: Watched, run: str) -> None:
    page = watched.page
    watched.open(f"/runs/{run}")
    wait_for_step(watched, 2)
    before, drawn = curve(watched, "Entropy"), page.locator("figure.chart canvas").count()
    assert drawn >= 8
    wait_for_step(watched, steps_shown(watched) + 2)
    page.wait_for_function(
        "before => [...document.querySelectorAll('.plot')].every(one => one.ariaLabel !== before)", arg=before
    )
    flow = page.locator(".flow svg")
    assert "Generators: 1 of 1 ready" in flow.get_attribute("aria-label")
    assert page.locator(".flow .slow").count() >= 1
    assert re.search(r"\d+ (% of a step|of \d+ groups)", page.locator(".tile", has_text="What is slow?").inner_text())

    page.get_by_role("button", name="Scale").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Generators").fill("0")
    dialog.get_by_role("button", name="Scale").click()
    assert dialog.is_visible(), "a number that cannot be is not sent"
    dialog.get_by_label("Generators").fill("2")
    dialog.get_by_role("button", name="Scale").click()
    page.get_by_role("rowheader", name="generator-1").wait_for()
    page.locator(".flow svg[aria-label*='2 of 2 ready']").wait_for()

    page.get_by_role("button", name="Stop").click()
    page.get_by_role("group", name="Stop it, with a checkpoint?").get_by_role("button", name="Stop").click()
    page.locator(".state.stopped").wait_for()
    page.get_by_role("button", name="Resume").click()
    page.locator(".state.running").wait_for()
    stopped_at = steps_shown(watched)
    wait_for_step(watched, stopped_at + 1)
    page.get_by_role("link", name="Events").click()
    for text in ("stopping: a checkpoint is written first", "the run goes on behind step"):
        line = page.locator(".events li", has_text=text)
        line.first.wait_for()
        assert line.locator(".kind").all_inner_texts() == ["notice"], "a clean stop is no trouble"
    page.get_by_role("button", name="Notices", exact=True).click()
    line.first.wait_for()
    page.get_by_role("button", name="Alerts", exact=True).click()
    line.first.wait_for(state="detached")


def test_a_mistake_in_the_form_is_shown_at_its_field_and_a_right_one_starts(watched: Watched, spec: dict) -> None:
    page = watched.page
    watched.open("/start")
    page.get_by_label("model.path").wait_for()
    start = page.get_by_role("button", name="Start the run")
    assert start.is_disabled()
    values = {
        "name": "from-the-form",
        "model.path": spec["model"]["path"],
        "data.path": spec["data"]["path"],
        "data.max_prompt_tokens": "16",
        "reward.grader": spec["reward"]["grader"],
        "training.steps": "many",
        "training.prompts_per_step": "8",
        "sampling.group_size": "4",
        "sampling.max_response_tokens": "256",
    }
    for name, value in values.items():
        page.get_by_label(re.compile(rf"^{re.escape(name)}\b")).fill(value)
    steps = page.locator(".field", has=page.get_by_label(re.compile("^training.steps")))
    steps.locator(".problem").wait_for()
    assert "number" in steps.locator(".problem").inner_text() or "integer" in steps.locator(".problem").inner_text()
    assert page.get_by_label(re.compile("^training.steps")).get_attribute("aria-invalid") == "true"
    page.get_by_label(re.compile("^training.steps")).fill("2")
    for section, field, value in (
        ("Training", "updates_per_step", "1"),
        ("Reward", "overlong_buffer_tokens", "64"),
        ("Resources", "redis.memory_mib", "512"),
    ):
        box = page.locator("details.section", has=page.get_by_role("heading", name=section, exact=False)).first
        if box.get_attribute("open") is None:
            box.locator("summary").click()
        box.get_by_label(re.compile(rf"^{re.escape(field)}\b")).fill(value)
    page.locator("summary", has_text="Labels and notes").click()
    page.get_by_label("Labels, one").fill("from=the form")
    page.get_by_label("Priority").fill("3")
    page.locator(".fine").wait_for()
    start.click()
    page.get_by_role("heading", level=1, name=re.compile("^from-the-form-")).wait_for()
    run_id = page.get_by_role("heading", level=1).inner_text()
    with urllib.request.urlopen(f"{watched.url}/v1/runs/{run_id}") as answer:
        found = json.load(answer)
    assert (found["steps_total"], found["labels"], found["priority"]) == (2, {"from": "the form"}, 3)
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("group", name="Stop it, with a checkpoint?").get_by_role("button", name="Stop").click()
    page.locator(".state.stopped, .state.succeeded").wait_for()


def test_samples_are_filtered_and_followed_over_time(watched: Watched, run: str) -> None:
    page = watched.page
    watched.open(f"/runs/{run}/samples")
    page.locator(".sample").first.wait_for()
    page.get_by_label("Verdict").select_option("wrong")
    page.wait_for_function(
        "() => !document.querySelector('.verdict.right') && document.querySelector('.verdict.wrong')"
    )
    page.get_by_role("link", name="This prompt over time").first.click()
    page.get_by_role("heading", name=re.compile("over time")).wait_for()
    page.locator(".sample").first.wait_for()
    page.locator(".sample header a").first.click()
    page.get_by_role("heading", name="What happened").wait_for()
    assert "issued" in page.locator(".story").inner_text()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_view_can_be_used_by_everybody(watched: Watched, run: str, theme: str) -> None:
    page = watched.page
    page.emulate_media(color_scheme=theme)
    parts = ("", "/samples", "/groups", "/groups?state=trained", "/events", "/logs", "/files", "/spec")
    for path, there in (
        ("/", "table.runs"),
        *((f"/runs/{run}{part}", ".tabs") for part in parts),
        ("/start", ".field"),
        (f"/compare?ids={run}", ".choice"),
    ):
        watched.open(path)
        page.locator(there).first.wait_for()
        page.wait_for_timeout(1000)
        assert watched.accessibility() == [], path


def test_the_keyboard_reaches_a_run(watched: Watched, run: str) -> None:
    page = watched.page
    watched.open("/")
    page.get_by_role("link", name=run).wait_for()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == run:
            break
    page.keyboard.press("Enter")
    page.get_by_role("heading", level=1, name=run).wait_for()


def test_nothing_is_wider_than_a_phone(watched: Watched, run: str) -> None:
    page = watched.page
    page.set_viewport_size({"width": 360, "height": 740})
    for path in ("/", f"/runs/{run}", f"/runs/{run}/samples", f"/runs/{run}/spec", f"/runs/{run}/events", "/start"):
        watched.open(path)
        page.wait_for_timeout(1500)
        wait_narrow(page, 360)
