"""The page where things are not as they should be: away, expired, deleted, empty, endless, or written by a stranger."""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from dapo.records.folder import RunFolder
from dapo.tokens import TOKEN_FILE, Scope, add_token, revoke_token
from tests.support.orchestrator.run_service import Service
from tests.support.page.browser import Watched, wait_narrow
from tests.support.page.recorded import record_run, record_samples

MANY = 1000
STRANGE = (
    "<img src=x onerror=alert(1)><script>document.title = 'taken'</script>",
    "\u202egnisrever si txet siht",  # Turns what stands after it around.
    "مرحبا بالعالم",
    "long" * 2000,
)


class Past(NamedTuple):
    service: Service
    folder: Path
    ids: dict[str, str]


@pytest.fixture(scope="module")
def past(chromium, tmp_path_factory) -> Iterator[Past]:
    """A service with many runs that have ended, some of them odd."""
    folder = tmp_path_factory.mktemp("past")
    runs = folder / "runs"
    for number in range(MANY):
        record_run(runs / f"many{number}", number, 1)
    odd = {
        "empty": record_run(runs / "empty", MANY, 0, name="empty"),
        "nan": record_run(
            runs / "nan", MANY + 1, 6, name="nan", value=lambda step: float("nan") if step % 3 else float(step)
        ),
        "strange": record_run(runs / "strange", MANY + 2, 3, name="strange"),
        "long": record_run(runs / "long", MANY + 3, 3, name="l" + "o" * 37 + "ng"),
        "doomed": record_run(runs / "doomed", MANY + 4, 3, name="doomed"),
    }
    record_samples(runs / "strange", STRANGE)
    log = RunFolder(runs / "strange").logs / "learner-0.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text("".join(f"2026-01-01 00:00:00,000 INFO    learner-0 a: line {one}\n" for one in range(9000)))
    service = Service(folder, "--requests-per-minute", "100000", token="")
    remarks = {"labels": {f"a-long-key-{'k' * 30}-{one}": "v" * 60 for one in range(20)}, "notes": "word" * 400}
    assert service.http.patch(f"/v1/runs/{odd['long']}", json=remarks).status_code == 200
    yield Past(service, folder, odd)
    service.close()


@pytest.fixture
def open_page(chromium) -> Iterator[Callable[[Service], Watched]]:
    with contextlib.ExitStack() as stack:

        def make(service: Service, **options: object) -> Watched:
            context = stack.enter_context(contextlib.closing(chromium.new_context(**options)))
            context.set_default_timeout(60_000)
            return Watched(context.new_page(), f"http://127.0.0.1:{service.ready['port']}")

        yield make


def test_a_service_that_goes_away_is_told_and_the_page_goes_on_with_the_next(open_page, tmp_path) -> None:
    record_run(tmp_path / "runs/one", 1, 3, name="one")
    service = Service(tmp_path, token="")
    watched = open_page(service)
    watched.open("/")
    page = watched.page
    page.get_by_role("link", name="one-").wait_for()
    service.close()
    page.locator(".silence").wait_for()
    assert page.get_by_role("link", name="one-").is_visible(), "what is known stays"
    page.get_by_role("link", name="one-").click()
    page.get_by_text("Loading the run").wait_for()
    record_run(tmp_path / "runs/two", 2, 3, name="two")
    after = Service(tmp_path, "--port", str(service.ready["port"]), token="")
    try:
        page.locator("figure.chart canvas").first.wait_for()
        assert page.locator(".silence").count() == 0
        page.get_by_role("link", name="Runs", exact=True).click()
        page.get_by_role("link", name="two-").wait_for()
        assert all("ERR_CONNECTION" in mistake or "ERR_EMPTY" in mistake for mistake in watched.mistakes)
    finally:
        after.close()


def test_after_a_login_that_has_expired_everything_is_as_it_was(open_page, tmp_path) -> None:
    secret = add_token(tmp_path / TOKEN_FILE, "ada", Scope.RUN)
    service = Service(tmp_path)
    try:
        watched = open_page(service)
        page = watched.page
        watched.open("/start")

        def log_in(token: str) -> None:
            page.get_by_label("Token", exact=True).fill(token)
            page.get_by_role("button", name="Log in").click()

        log_in(secret)
        page.locator("#field-name").fill("half-written")
        revoke_token(tmp_path / TOKEN_FILE, "ada")
        page.locator("#field-training-steps").fill("7")  # It is checked, which needs a login.
        page.get_by_text("has expired").wait_for()
        assert not page.locator("#field-name").is_visible()
        log_in(add_token(tmp_path / TOKEN_FILE, "grace", Scope.RUN))
        page.locator("#field-name").wait_for()
        assert page.locator("#field-name").input_value() == "half-written"
        page.get_by_text("still wrong or missing").wait_for()
        page.get_by_role("button", name="Log out").click()
        page.get_by_label("Token", exact=True).wait_for()
        assert page.locator("#field-name").count() == 0, "nothing stays behind"
        assert all("401" in mistake for mistake in watched.mistakes), watched.mistakes
    finally:
        service.close()


def test_a_run_that_is_deleted_while_one_looks_is_said_to_be_gone(open_page, past: Past) -> None:
    watched = open_page(past.service)
    watched.open(f"/runs/{past.ids['doomed']}")
    watched.page.locator("figure.chart canvas").first.wait_for()
    assert past.service.http.delete(f"/v1/runs/{past.ids['doomed']}").status_code == 204
    watched.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # Somebody comes back to the page.
    watched.page.get_by_text("it was deleted").wait_for()
    assert watched.page.get_by_role("button", name="Resume").count() == 0
    watched.page.get_by_role("link", name="All runs").click()
    watched.page.get_by_role("heading", name="Runs").wait_for()


@pytest.mark.parametrize("name", ["empty", "nan", "long"])
def test_an_odd_run_is_shown_in_every_part(open_page, past: Past, name: str) -> None:
    watched = open_page(past.service, viewport={"width": 320, "height": 700})
    for part in ("", "/samples", "/groups", "/events", "/logs", "/files", "/spec"):
        watched.open(f"/runs/{past.ids[name]}{part}")
        watched.page.locator(".tabs").wait_for()
        watched.page.wait_for_function("() => !document.querySelector('main').innerText.includes('Loading')")
        assert watched.page.locator("[role=alert]").count() == 0, part
        wait_narrow(watched.page, 320)
    assert watched.mistakes == []


def test_what_a_model_writes_is_text_and_nothing_else(open_page, past: Past) -> None:
    watched = open_page(past.service)
    page = watched.page
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    watched.open(f"/runs/{past.ids['strange']}/samples")
    page.locator(".sample").nth(len(STRANGE) - 1).wait_for()
    assert sorted(page.locator(".response pre").all_text_contents()) == sorted(STRANGE)
    assert page.locator("main img, main script").count() == 0
    assert page.title() == f"{past.ids['strange']} – dapo"
    arabic = page.locator(".response pre", has_text="مرحبا")
    assert arabic.evaluate("node => getComputedStyle(node).direction") == "rtl"
    assert dialogs == []
    assert watched.mistakes == []


def test_a_thousand_runs_are_searched_paged_and_found_again_by_going_back(open_page, past: Past) -> None:
    watched = open_page(past.service)
    page = watched.page
    watched.open("/")
    rows = page.locator("table.runs tbody tr")
    rows.first.wait_for()
    assert rows.count() == 100
    page.get_by_role("button", name="Show 100 more").click()
    page.wait_for_function("() => document.querySelectorAll('table.runs tbody tr').length === 200")
    page.get_by_label("Search runs").fill("recorded-20260101-000007")
    page.wait_for_function("() => document.querySelectorAll('table.runs tbody tr').length === 1")
    rows.locator("a").click()
    page.get_by_role("heading", level=1, name="recorded-20260101-000007").wait_for()
    page.go_back()
    page.wait_for_function("() => document.querySelectorAll('table.runs tbody tr').length === 1")
    assert page.get_by_label("Search runs").input_value() == "recorded-20260101-000007"
    page.get_by_label("Search runs").fill("no such run")
    page.get_by_role("button", name="Show all").click()
    rows.nth(99).wait_for()
    page.get_by_role("button", name="Failed").click()
    page.get_by_text("No run fits").wait_for()
    assert page.url.endswith("?state=failed")
    assert watched.mistakes == []


@pytest.mark.parametrize(
    "place", ["/runs/%", "/runs/none/%E0%A4%A", "/nowhere/at/all", "/compare?ids=%", "/start?from="]
)
def test_an_address_that_leads_nowhere_breaks_nothing(open_page, past: Past, place: str) -> None:
    watched = open_page(past.service)
    watched.open(place)
    watched.page.locator("main").get_by_role("link").or_(watched.page.locator("main h1")).first.wait_for()
    watched.page.get_by_role("link", name="Runs", exact=True).click()
    watched.page.get_by_role("heading", name="Runs").wait_for()
    assert not [mistake for mistake in watched.mistakes if "404" not in mistake]


def test_of_a_long_log_the_end_is_kept_and_searched(open_page, past: Past) -> None:
    watched = open_page(past.service)
    page = watched.page
    watched.open(f"/runs/{past.ids['strange']}/logs")
    page.get_by_text("line 8999").wait_for()
    page.get_by_label("Search").fill("LINE 899")
    page.get_by_text("10 of 2,000 lines fit").wait_for()
    assert page.locator(".log").inner_text().splitlines()[0].endswith("line 8990")
    assert watched.mistakes == []


def test_a_form_accuses_nobody_of_what_was_not_typed_yet(open_page, past: Past) -> None:
    watched = open_page(past.service)
    watched.open("/start")
    page = watched.page
    page.get_by_text("still wrong or missing").wait_for()
    essentials = page.locator("details.section").first
    assert "2 needed" in essentials.locator("summary").inner_text()
    assert page.locator(".field.bad, .tag.bad, .field .problem, [aria-invalid=true]").count() == 0
    path = page.get_by_label(re.compile(r"^model\.path"))
    path.fill("m")
    path.fill("")
    page.locator(".field.bad", has_text="model.path").get_by_text("It is needed.").wait_for()
    steps = page.get_by_label(re.compile(r"^training\.steps"))
    steps.fill("many")
    page.locator(".field.bad", has_text="training.steps").locator(".problem").wait_for()


def test_an_address_of_nothing_says_so_and_runs_are_compared_by_name(open_page, past: Past) -> None:
    watched = open_page(past.service)
    watched.open("/foo/bar")
    watched.page.get_by_text("There is nothing at #/foo/bar").wait_for()
    assert watched.page.title() == "dapo"
    watched.page.get_by_role("link", name="All runs").click()
    watched.page.get_by_text("the newest first").first.wait_for()
    one, other = list(past.ids.values())[:2]
    watched.open(f"/compare?run={one}&run={other}")
    watched.page.locator(".legend.key").get_by_role("link", name=other).wait_for()
    assert watched.accessibility() == []
    watched.page.set_viewport_size({"width": 320, "height": 700})
    wait_narrow(watched.page, 320)
    assert watched.mistakes == []
