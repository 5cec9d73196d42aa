"""How the page lets in whoever has a token, and what is not offered to a token that only reads."""

from dapo.tokens import TOKEN_FILE, Scope, add_token
from tests.support.orchestrator.run_service import Service
from tests.support.page.browser import Watched


def test_a_service_with_tokens_asks_for_one_and_offers_what_it_allows(chromium, tmp_path) -> None:
    secret = add_token(tmp_path / TOKEN_FILE, "grace", Scope.READ)
    service = Service(tmp_path)
    context = chromium.new_context()
    try:
        watched = Watched(context.new_page(), f"http://127.0.0.1:{service.ready['port']}")
        page = watched.page
        watched.open("/")
        page.get_by_label("Token").fill("dapo_wrong")
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("alert").wait_for()
        assert watched.accessibility() == []
        page.get_by_label("Token").fill(secret)
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("heading", name="Runs").wait_for()
        assert page.get_by_text("grace").is_visible()
        assert page.get_by_role("link", name="New run").count() == 0
        (cookie,) = context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert secret not in cookie["value"]
        page.reload()
        page.get_by_role("heading", name="Runs").wait_for()
        page.get_by_role("button", name="Log out").click()
        page.get_by_label("Token").wait_for()
        assert context.cookies() == []
        assert all("401" in mistake for mistake in watched.mistakes), watched.mistakes
    finally:
        context.close()
        service.close()
