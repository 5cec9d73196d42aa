"""The page of the run API, from the document that the service itself gives."""

import httpx
import pytest

from tests.support.page.browser import Watched, wait_narrow


@pytest.fixture
def docs(watched: Watched) -> Watched:
    watched.page.goto(f"{watched.url}/docs")
    watched.page.locator(".operation").first.wait_for()
    return watched


def test_every_operation_is_shown_and_nothing_is_asked_of_anybody_else(docs: Watched) -> None:
    page = docs.page
    document = httpx.get(f"{docs.url}/openapi.json", trust_env=False).json()
    names = {operation["operationId"] for methods in document["paths"].values() for operation in methods.values()}
    assert {one.get_attribute("id") for one in page.locator(".operation").all()} == names
    for one in page.locator(".operation > summary").all():
        one.click()
    answers = page.locator(".operation[open] h3", has_text="Answer 2")
    answers.nth(len(names) - 1).wait_for()
    assert answers.count() == len(names)
    assert docs.accessibility() == []
    page.set_viewport_size({"width": 360, "height": 740})
    wait_narrow(page, 360)


def test_an_operation_is_found_and_its_fields_are_followed_as_deep_as_they_go(docs: Watched) -> None:
    page = docs.page
    page.get_by_label("Find").fill("create_run")
    assert page.locator(".operation").count() == 1
    page.locator(".operation > summary").click()
    assert "--json @request.json" in page.get_by_label("Command").inner_text()
    assert page.get_by_role("rowheader", name="spec required").is_visible()
    page.get_by_label("Fields of the answer").get_by_text("State", exact=True).last.click()
    page.get_by_label("Fields of the answer").get_by_text('"running"').wait_for()


def test_an_address_opens_an_operation(docs: Watched) -> None:
    docs.page.goto("about:blank")
    docs.page.goto(f"{docs.url}/docs#get_pipeline")
    docs.page.locator("#get_pipeline[open] h3", has_text="Answer 200").wait_for()
    assert docs.page.locator(".operation[open]").count() == 1
