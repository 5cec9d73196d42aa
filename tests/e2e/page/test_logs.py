"""A worker's log on the page while the run goes on: followed, paused, searched, taken up again after a break."""

import re
import time
from pathlib import Path

import httpx
import pytest

from tests.support.page.browser import Watched


@pytest.fixture
def log(watched: Watched, run: str) -> Path:
    """Of the run's learner, to which tests write lines, too."""
    run_dir = Path(httpx.get(f"{watched.url}/v1/runs/{run}", trust_env=False).json()["run_dir"])
    return next((run_dir / "logs").glob("verifier-0.log"))


def write(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text)


def shown(watched: Watched) -> list[str]:
    return watched.page.locator(".log").inner_text().splitlines()


def test_a_log_is_followed_paused_and_searched(watched: Watched, run: str, log: Path) -> None:
    page = watched.page
    watched.open(f"/runs/{run}/logs?worker=verifier-0")
    page.locator(".log").wait_for()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    write(log, "2026-01-01 00:00:00,000 WARNING verifier-0 a: mind the gap\n")
    page.locator(".log .warning", has_text="mind the gap").wait_for()
    write(log, "2026-01-01 00:00:00,000 ERROR   verifier-0 a: broken\nTraceback (most recent call last):\n  line 1\n")
    page.locator(".log .error", has_text="line 1").wait_for()
    assert not [url for url in asked if "/logs/" in url], "what comes is read from one stream"

    page.get_by_role("button", name="Pause").click()
    write(log, "".join(f"2026-01-01 00:00:00,000 INFO    verifier-0 a: unseen {one}\n" for one in range(30)))
    page.get_by_role("button", name=re.compile(r"Follow \(\d+ new\)")).wait_for()
    assert "unseen" not in page.locator(".log").inner_text()
    page.get_by_role("button", name="Follow").click()
    page.locator(".log", has_text="unseen 29").wait_for()
    page.get_by_label("Search").fill("Unseen 2")
    page.get_by_text(re.compile(r"^11 of [\d,]+ lines fit")).wait_for()
    page.get_by_label("Search").fill("")
    page.get_by_label("Level").select_option("error")
    page.wait_for_function("() => !document.querySelector('.log').innerText.includes('mind the gap')")
    assert any("broken" in line for line in shown(watched))
    assert watched.accessibility() == []


def test_after_a_break_a_log_goes_on_without_a_gap_or_a_line_twice(watched: Watched, run: str, log: Path) -> None:
    page = watched.page
    watched.open(f"/runs/{run}/logs?worker=verifier-0")
    write(log, "before the break\n")
    page.locator(".log", has_text="before the break").wait_for()
    hide = "hidden => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
    hide += "document.dispatchEvent(new Event('visibilitychange')) }"
    page.evaluate(hide, True)
    write(log, "during the break\n")
    time.sleep(1.5)  # A page that nobody sees holds no stream.
    assert "during the break" not in page.locator(".log").inner_text()
    page.evaluate(hide, False)
    page.locator(".log", has_text="during the break").wait_for()
    write(log, "after the break\n")
    page.locator(".log", has_text="after the break").wait_for()
    lines = [line for line in shown(watched) if line.endswith("the break")]
    assert [line.split()[0] for line in lines] == ["before", "during", "after"]
