"""What is read of a run over REST: from its folder, whatever became of it, and the page with its policy."""

import re
from pathlib import Path

import pytest

from services.orchestrator.api.routes.page import FILES
from tests.support.orchestrator.run_service import create, kind


def test_curves_pipeline_samples_and_evaluations_of_a_run_that_has_ended(service, recorded):
    found = service.http.get(f"{recorded}/metrics", params={"since_step": 3, "names": "accuracy_mean"}).json()
    assert (found["step"], found["columns"], found["last_step"]) == ([4, 5], {"accuracy_mean": [0.4, 0.5]}, 5)
    pipeline = service.http.get(f"{recorded}/pipeline").json()
    assert (pipeline["live"], pipeline["groups"]) == (False, {"trained": 40})
    assert pipeline["bottleneck"] == {"stage": "training", "share": 0.75, "text": "training takes 75 % of a step"}
    first = service.http.get(f"{recorded}/samples", params={"limit": 3}).json()
    second = service.http.get(f"{recorded}/samples", params={"limit": 3, "cursor": first["cursor"]}).json()
    assert [one["step"] for one in first["samples"] + second["samples"]] == [4, 3, 2, 1, 0]
    assert second["cursor"] == ""
    (one,) = service.http.get(f"{recorded}/samples", params={"prompt": "add 2"}).json()["samples"]
    assert one["step"] == 2
    assert service.http.get(f"{recorded}/evaluations").json()["evaluations"][0]["set"] == "aime"
    assert service.http.get(f"{recorded}/groups").json() == {"groups": []}


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("metrics?names=accuracy", "names"),
        ("metrics?points=0", "points"),
        ("samples?cursor=x", "cursor"),
        ("samples?set=../x", "set"),
        ("samples?verdict=maybe", "verdict"),
        ("groups?state=lost", "state"),
    ],
)
def test_what_cannot_be_asked_is_told_by_its_field(service, recorded, path, field):
    response = service.http.get(f"{recorded}/{path}")
    assert response.status_code == 422
    assert [problem["field"] for problem in response.json()["problems"]] == [field]


def test_nothing_is_read_of_a_run_that_there_is_not_nor_without_a_token(service, recorded):
    for part in ("metrics", "pipeline", "samples", "evaluations", "groups", "spec"):
        assert service.http.get(f"/v1/runs/none/{part}").status_code == 404
        assert service.http.get(f"{recorded}/{part}", headers={"Authorization": "Bearer wrong"}).status_code == 401


def test_a_damaged_file_is_told_and_not_a_failure_of_the_service(service, spec):
    run = create(service, spec)
    service.http.post(f"/v1/runs/{run['id']}/stop")
    (service.folder / "runs" / run["id"] / "metrics.jsonl").write_text("no JSON\n")
    for part in ("metrics", "pipeline"):
        assert kind(service.http.get(f"/v1/runs/{run['id']}/{part}")) == (500, "unreadable")
    assert "path:" in service.http.get(f"/v1/runs/{run['id']}/spec").json()["yaml"]


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("spec.yaml", "spec"),
        ("evaluations.jsonl", "evaluations"),
        ("dead_letters.jsonl", "dead-letters"),
        ("groups.pb.gz", "groups"),
        ("groups.pb.gz", "groups/g0000000001"),
        ("checkpoints/latest.json", "checkpoints"),
    ],
)
def test_a_file_that_is_damaged_is_not_taken_for_a_store_that_is_silent(service, recorded, file, part):
    path = service.folder / "runs" / "recorded" / file
    before = path.read_bytes() if path.exists() else None
    path.parent.mkdir(exist_ok=True)
    path.write_text("[\n[\n")
    response = service.http.get(f"{recorded}/{part}")
    path.unlink() if before is None else path.write_bytes(before)
    assert kind(response) == (500, "unreadable")


def test_the_page_lets_nothing_in_from_elsewhere(service):
    page = service.http.get("/", headers={"Authorization": ""})
    assert page.headers["content-type"].startswith("text/html")
    for response in (page, service.http.get("/page/app.js"), service.http.get("/page/styles/base.css")):
        assert response.status_code == 200
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    assert "<script>" not in page.text
    assert "style=" not in page.text
    again = service.http.get(
        "/page/app.js", headers={"If-None-Match": service.http.get("/page/app.js").headers["etag"]}
    )
    assert again.status_code == 304
    assert service.http.get("/page/../__init__.py").status_code == 404


def imported(*entries: str, later: bool = False) -> set[Path]:
    """Modules and all that they need before they run; with `later` what they load later on, too."""
    pattern = re.compile(
        r'(?:from|^import|import\()\s*"(\.[^"]+)"' if later else r'(?:from|^import)\s*"(\.[^"]+)"', re.M
    )
    found, left = set(), [FILES / entry for entry in entries]
    while left:
        if (path := left.pop()) not in found:
            found.add(path)
            left += [(path.parent / name).resolve() for name in pattern.findall(path.read_text())]
    return found


@pytest.mark.parametrize(
    ("page", "first"),
    [("index.html", ["app.js", "views/runs.js", "views/run.js"]), ("docs/index.html", ["docs/docs.js"])],
)
def test_each_page_names_the_modules_that_it_shows_first_so_that_they_come_at_once(service, page, first):
    wanted = {f"/page/{path.relative_to(FILES).as_posix()}" for path in imported(*first)}
    named = re.findall(r'(?:modulepreload" href|module" src)="([^"]+)"', (FILES / page).read_text())
    assert sorted(named) == sorted(wanted)


def test_every_module_is_of_a_page_and_served(service):
    modules = imported("app.js", "docs/docs.js", later=True)
    assert modules == set(FILES.rglob("*.js"))
    for path in modules:
        answer = service.http.get(f"/page/{path.relative_to(FILES).as_posix()}")
        assert answer.headers["content-type"].startswith("text/javascript")


def test_the_page_of_the_api_is_the_services_own(service):
    page = service.http.get("/docs", headers={"Authorization": ""})
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "://" not in page.text
    assert service.http.get("/redoc").status_code == 404
    assert service.http.get("/openapi.json", headers={"Authorization": ""}).json()["info"]["title"] == "dapo"
