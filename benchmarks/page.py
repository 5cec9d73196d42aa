"""How long the web page takes until it has drawn something: with 50 runs in the list, and a run of 10,000 steps.

    python benchmarks/page.py [--runs 50] [--steps 10000] [--repeats 5] [--json FILE]

A run service answers for recorded folders that are written first; Debian's Chromium opens the page, each time with an
empty cache. Measured are the browser's own first contentful paint, and the time until the list has its rows or the run
its curves. The goal is a second for each on a machine with two cores.

Then the page looks at the long run for an hour as if it went on: the browser's clock is turned, and of each answer the
steps are left out that are yet to come. Measured is the heap after a collection: it grows with the points of the
curves, of which 3,000 are kept at most, and then no more.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from machine import machine
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.survival import platform
from dapo.host.files import write_json
from tests.support.page.recorded import record_run

_PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
_DRAWN_MS = 30_000
_HOUR_S = 3600
_LOOK_S = 30


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50, help="in the list")
    parser.add_argument("--steps", type=int, default=10_000, help="of the run that is opened")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    return parser.parse_args()


def open_page(browser: Any, url: str, there: str) -> tuple[float, float]:
    """Milliseconds to the first contentful paint, and until `there` is seen."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(url, wait_until="commit")
    page.wait_for_selector(there, timeout=_DRAWN_MS)
    drawn = page.evaluate("performance.now()")
    page.wait_for_function(_PAINT)
    paint = page.evaluate(_PAINT)
    context.close()
    return paint, drawn


class Hour:
    """A recorded run that seems to go on: at each moment of the browser's clock it has the steps up to there."""

    def __init__(self, page: Any, url: str, run_id: str, steps: int) -> None:
        self._page, self._steps, self._now_s = page, steps, 0
        self._memory = page.context.new_cdp_session(page)
        page.clock.install()
        page.route(f"**/v1/runs/{run_id}", self._answer_run)
        page.route("**/metrics?*", self._answer_metrics)
        page.route("**/events?*", lambda route: route.fulfill(status=204))
        page.goto(f"{url}/#/runs/{run_id}")

    def _step(self) -> int:
        return max(1, self._steps * self._now_s // _HOUR_S)

    def _answer_run(self, route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "state": "running", "step": self._step()})

    def _answer_metrics(self, route: Any) -> None:
        answer = route.fetch()
        series = answer.json()
        many = sum(step <= self._step() for step in series["step"])
        series["step"] = series["step"][:many]
        series["columns"] = {name: values[:many] for name, values in series["columns"].items()}
        last = series["step"][-1] if many else int(parse_qs(urlsplit(route.request.url).query)["since_step"][0])
        route.fulfill(response=answer, json={**series, "last_step": last})

    def look(self, seconds: int) -> float:
        """MiB that are held after so many seconds more."""
        for _ in range(seconds // _LOOK_S):
            self._now_s += _LOOK_S
            with self._page.expect_response("**/metrics?*"):
                self._page.clock.run_for(_LOOK_S * 1000)
        self._memory.send("HeapProfiler.collectGarbage")
        return float(self._memory.send("Runtime.getHeapUsage")["usedSize"]) / (1 << 20)


def main() -> int:
    flags = parse()
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.stderr.write("there is no chromium: apt-get install chromium\n")
        return 2
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory(prefix="dapo-page-") as folder:
        root = Path(folder)
        ids = [record_run(root / "runs" / str(one), one, flags.steps if one == 0 else 100) for one in range(flags.runs)]
        views = {"the list": ("", "table.runs tbody tr"), "a run": (f"#/runs/{ids[0]}", "figure.chart canvas")}
        with platform.Service(root, platform.REAL, {}) as service, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            found = {
                name: [open_page(browser, f"{service.url}/{place}", there) for _ in range(flags.repeats)]
                for name, (place, there) in views.items()
            }
            hour = Hour(browser.new_page(), service.url, ids[0], flags.steps)
            heap = [hour.look(_HOUR_S // 6) for _ in range(6)]
            browser.close()
    figures: dict[str, Any] = {"machine": machine(), "runs": flags.runs, "steps": flags.steps}
    table = Table("view", "first paint", "its data drawn", "slowest")
    for name, times in found.items():
        paint, drawn = (statistics.median(one[at] for one in times) for at in (0, 1))
        slowest = max(drawn for _, drawn in times)
        table.add_row(name, f"{paint:.0f} ms", f"{drawn:.0f} ms", f"{slowest:.0f} ms")
        figures[name] = {"first_paint_ms": paint, "drawn_ms": drawn, "slowest_ms": slowest}
    Console().print(table)
    print("MiB held after each ten minutes of an hour:", ", ".join(f"{size:.1f}" for size in heap))
    figures["heap_mib"] = heap
    if flags.json is not None:
        write_json(flags.json, figures)
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
