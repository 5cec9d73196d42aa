"""A run service with simulated engines, a run on it, and a browser."""

import json
from collections.abc import Iterator

import pytest

from benchmarks.survival import platform, runs
from tests.support.page.browser import CHROMIUM, Watched

STEPS = 500


@pytest.fixture(scope="package")
def chromium() -> Iterator:
    """Skips where there is no browser: apt-get install chromium, pip install playwright.

    Of the package alone: while it is open, an event loop runs in this thread, so that `asyncio.run` would be refused.
    """
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser: pip install '.[dev]'")
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        # As root its sandbox does not start.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def service(chromium, tmp_path_factory) -> Iterator[platform.Service]:
    options = runs.simulator(step_s=0.02, mean_tokens=16)
    with platform.Service(tmp_path_factory.mktemp("page"), platform.SIMULATED, options["environment"]) as running:
        yield running


@pytest.fixture(scope="package")
def spec(toy) -> dict:
    found = runs.simulated(toy, STEPS, evaluation={"every_steps": 50})
    found["data"]["held_out_share"] = 0.001
    found["resources"]["generator"]["replicas"] = found["resources"]["verifier"]["replicas"] = 1
    return found


@pytest.fixture(scope="package")
def run(service, spec) -> Iterator[str]:
    """Id of a run that goes on."""
    run_id = service.client.create(json.dumps(spec))["id"]
    yield run_id
    service.client.stop(run_id)


@pytest.fixture
def watched(chromium, service) -> Iterator[Watched]:
    """A page on which nothing may go wrong."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(60_000)
    found = Watched(context.new_page(), service.url)
    yield found
    context.close()
    assert found.mistakes == []
