"""A real Prometheus scrapes a run service and the workers of a run with simulated engines; all else is real."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from benchmarks.survival.platform import SIMULATED
from benchmarks.survival.runs import simulated
from dapo.host.ports import free_port
from dapo.telemetry.exported import EXPORTED
from dapo.telemetry.server import METRICS_PORT
from tests.support.orchestrator.run_service import TOKEN, Service, create
from tests.support.paths import REPO
from tests.support.waiting import until

pytestmark = [
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed"),
    pytest.mark.timeout(300),
]

SHIPPED = REPO / "deploy/prometheus"
_LONG_S = 150.0
"""On a machine that is busy."""
ENGINES = json.dumps({"step_s": 0.005, "mean_tokens": 8})
RUN_QUERIES = {
    "dapo_run_step": 1.0,
    "dapo_run_progress_timestamp_seconds": 1.0,
    "sum by (run) (dapo_run_groups)": 1.0,
    "dapo_run_groups_issued_total": 1.0,
    "dapo_run_payload_bytes": 1.0,
    "dapo_run_payload_limit_bytes": 1.0,
    "dapo_run_reward_mean": None,
    "dapo_run_step_seconds": None,
    "dapo_run_generators_ready": 1.0,
    "sum by (run) (dapo_run_workers{state='running'})": 3.0,
    "dapo_run_redis_up": 1.0,
    "sum by (run) (dapo_generator_tokens_total)": 1.0,
    "sum by (run) (dapo_generator_busy_seconds_total)": 0.001,
    "max by (run) (dapo_generator_weight_version)": 1.0,
    "sum by (run) (dapo_generator_weight_updates_total{outcome='done'})": 1.0,
    "sum by (run) (dapo_generator_weight_pause_seconds_count)": 1.0,
    "sum by (run) (dapo_generator_request_seconds_count)": 1.0,
    "sum by (run) (dapo_generator_response_tokens_sum)": 1.0,
    "sum by (run) (dapo_verifier_graded_total{verdict=~'correct|wrong'})": 1.0,
    "sum by (run) (dapo_verifier_grading_seconds_count)": 1.0,
    "sum by (run) (dapo_verifier_wait_seconds_count)": 1.0,
    "dapo_learner_step": 1.0,
    "dapo_learner_step_seconds_count": 1.0,
    "dapo_learner_tokens_total": 1.0,
    "dapo_learner_weight_sync_seconds_count": 1.0,
    "dapo_learner_weight_members": 1.0,
    "dapo_run_checkpoint_step": 1.0,
    "dapo_run_checkpoint_timestamp_seconds": 1.0,
    "dapo_run_checkpoint_interval_steps": 2.0,
    "dapo_learner_checkpoint_seconds_count": 1.0,
    "sum by (run) (sglang:num_running_reqs)": 0.0,
}
"""What is asked of a run, and the least that is answered; None: any number."""


class Prometheus:
    """On loopback, as deploy/prometheus/prometheus.yml has it, but for the service's port and shorter intervals."""

    def __init__(self, folder: Path, service_port: int, token: str) -> None:
        shutil.copytree(SHIPPED, folder)
        config = re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{service_port}", (SHIPPED / "prometheus.yml").read_text())
        (folder / "prometheus.yml").write_text(re.sub(r"_interval: \d+s", "_interval: 1s", config))
        (folder / "token").write_text(token)
        port = free_port()
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=log,
            )
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=30, trust_env=False)

    def query(self, text: str) -> list[tuple[dict[str, str], float]]:
        try:
            found = self.http.get("/query", params={"query": text}).raise_for_status().json()
        except (httpx.ConnectError, httpx.HTTPStatusError):
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            return []
        return [(one["metric"], float(one["value"][1])) for one in found["data"]["result"]]

    def rules(self) -> dict[str, str]:
        """By alert, whether it could be evaluated: ok, err, or unknown as long as it was not."""
        found = self.http.get("/rules").raise_for_status().json()["data"]["groups"]
        return {rule["name"]: rule["health"] for group in found for rule in group["rules"]}

    def close(self) -> None:
        self.http.close()
        self.process.terminate()
        try:
            self.process.wait(20)
        finally:
            self.process.kill()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    environment = {"SIMULATOR_OPTIONS": ENGINES, METRICS_PORT: "0"}
    options = ("--metrics-address", "127.0.0.1:0", "--log-format", "json")
    one = Service(tmp_path, *options, module=SIMULATED, **environment)
    yield one
    one.close()


def test_a_run_is_seen_with_all_its_workers_and_no_longer_once_it_has_ended(
    service: Service, toy: Path, tmp_path: Path
) -> None:
    prometheus = Prometheus(tmp_path / "prometheus", service.ready["port"], TOKEN)
    try:
        spec = simulated(toy, 100_000, sampling={"max_response_tokens": 32}, checkpoint={"every_steps": 2})
        spec["reward"]["overlong_buffer_tokens"] = 8
        run_id = create(service, spec)["id"]
        until(lambda: prometheus.query("dapo_learner_checkpoint_seconds_count"), bool, _LONG_S)
        for text, least in RUN_QUERIES.items():
            # Each target is scraped at a moment of its own.
            found = until(partial(prometheus.query, text), partial(_is_at, least), _LONG_S)
            assert {labels.get("run") for labels, _ in found} == {run_id}, text
        ups = until(lambda: prometheus.query("up"), lambda found: len(found) == 8, _LONG_S)
        assert [labels for labels, value in ups if value != 1] == []
        workers = {labels["worker"] for labels, _ in prometheus.query("process_start_time_seconds{run!=''}")}
        assert workers == {"generator-0", "generator-1", "verifier-0", "verifier-1", "learner-0"}
        engines = {labels["worker"] for labels, _ in prometheus.query("sglang:num_running_reqs")}
        assert engines == {"generator-0", "generator-1"}
        assert prometheus.query("dapo_runs{state='running'}")[0][1] == 1
        names = {labels["__name__"] for labels, _ in prometheus.query("{__name__=~'dapo_.+'}")}
        _check_names(names)
        _check_with_promtool(service)
        rules = until(prometheus.rules, lambda found: "unknown" not in found.values(), _LONG_S)
        assert set(rules.values()) == {"ok"}

        assert service.http.post(f"/v1/runs/{run_id}/stop").status_code == 200
        until(lambda: prometheus.query("dapo_run_info"), lambda found: not found, _LONG_S)
        until(lambda: prometheus.query("dapo_learner_step"), lambda found: not found, _LONG_S)
        assert prometheus.query("dapo_runs_led")[0][1] == 0
        assert service.http.get("/metrics/targets").json() == []
    finally:
        prometheus.close()
    _check_logs(service, run_id)


def _is_at(least: float | None, found: list[tuple[dict[str, str], float]]) -> bool:
    return bool(found) and all(least is None or value >= least for _, value in found)


def _check_names(names: set[str]) -> None:
    """Nothing is scraped that is not declared."""
    parts = ("_bucket", "_sum", "_count")
    declared = {one.name for one in EXPORTED if one.kind != "histogram"}
    declared |= {one.name + part for one in EXPORTED if one.kind == "histogram" for part in parts}
    assert names <= declared
    assert len(names) > 100


def _check_with_promtool(service: Service) -> None:
    """Each worker's answer, too."""
    addresses = {group["targets"][0] for group in service.http.get("/metrics/targets").json()}
    texts = [service.http.get("/metrics").text]
    texts += [httpx.get(f"http://{address}/metrics", trust_env=False).text for address in sorted(addresses)]
    assert len(texts) == 6
    for text in texts:
        # Names of prometheus-client's own are not ours to mend.
        ours = "".join(line + "\n" for line in text.splitlines() if "dapo_" in line)
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=ours, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def _check_logs(service: Service, run_id: str) -> None:
    """Each line of the service and of its workers is JSON, and says of whom it is; but for what libraries in C++ print
    beside the learner's."""
    lines = [json.loads(line) for line in service.log.read_text().splitlines() if not line.startswith('{"host"')]
    assert {line["service"] for line in lines} == {"orchestrator"}
    assert run_id in {line.get("run") for line in lines}
    logs = service.folder / "runs" / run_id / "logs"
    for worker in ("generator-0", "generator-1", "verifier-0", "verifier-1", "learner-0"):
        written = (logs / f"{worker}.log").read_text().splitlines()
        lines = [json.loads(line) for line in written if worker != "learner-0" or line.startswith("{")]
        of = {(line["service"], line["run"], line["worker"]) for line in lines}
        assert of == {(worker.partition("-")[0], run_id, worker)}


def test_a_service_without_a_token_is_scraped_with_an_empty_file_of_it(tmp_path: Path) -> None:
    one = Service(tmp_path, token="")
    prometheus = Prometheus(tmp_path / "prometheus", one.ready["port"], "")
    try:
        assert until(lambda: prometheus.query("dapo_runs_led"), bool, _LONG_S)[0][1] == 0
    finally:
        prometheus.close()
        one.close()


def test_who_may_scrape(service: Service) -> None:
    open_ = f"http://127.0.0.1:{service.ready['metrics_port']}"
    for path in ("/metrics", "/metrics/targets"):
        bare = httpx.get(f"{service.http.base_url}{path}", trust_env=False)
        assert bare.status_code == 401
        assert service.http.get(path).status_code == 200
        assert httpx.get(f"{open_}{path}", trust_env=False).status_code == 200
    assert httpx.get(f"{open_}/v1/runs", trust_env=False).status_code == 404


def test_a_service_may_leave_its_metrics_open(tmp_path: Path) -> None:
    one = Service(tmp_path, "--metrics-open")
    try:
        assert httpx.get(f"{one.http.base_url}/metrics", trust_env=False).status_code == 200
        assert httpx.get(f"{one.http.base_url}/v1/runs", trust_env=False).status_code == 401
    finally:
        one.close()
