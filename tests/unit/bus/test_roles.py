"""What the type checker allows each role to do with the bus."""

import re
import subprocess
import sys
from pathlib import Path

from tests.support.paths import REPO

SNIPPET = """
from dapo.bus import Bus, Delivery
from dapo.bus.failures import FailureReason
from dapo.bus.roles import GeneratorBus, LearnerBus, OrchestratorBus, VerifierBus
from dapo.v1 import messages_pb2 as pb


def accepted(bus: Bus) -> tuple[OrchestratorBus, GeneratorBus, VerifierBus, LearnerBus]:
    return bus, bus, bus, bus


async def allowed(
    orchestrator: OrchestratorBus,
    generator: GeneratorBus,
    verifier: VerifierBus,
    learner: LearnerBus,
    delivery: Delivery,
) -> None:
    await orchestrator.batches.cut(pb.TrainBatch(), 1)
    await orchestrator.groups.settle(delivery, "g", "kept", "", 1)
    await generator.groups.write_completions([pb.Completion()])
    await generator.payloads.put({})
    await verifier.groups.write_grades([(delivery, pb.Grade())])
    await verifier.groups.fail("g", FailureReason.GRADER_FAILED)
    await verifier.groups.refill(delivery)
    await verifier.streams.leave("completions", "verifier-0")
    await generator.streams.hand_back("prompts", "generator-0", delivery, lost=True)
    await verifier.streams.consume("completions", "verifier-0", count=1, block_s=0)
    await learner.batches.record_step(pb.StepReport(), [], 1)
    await learner.weights.publish_version(pb.Version(), 1)


async def refused(
    orchestrator: OrchestratorBus,
    generator: GeneratorBus,
    verifier: VerifierBus,
    learner: LearnerBus,
    delivery: Delivery,
) -> None:
    await generator.groups.refill(delivery)  # error
    await verifier.batches.cut(pb.TrainBatch(), 1)  # error
    await verifier.groups.settle(None, "g", "kept", "", 1)  # error
    await verifier.groups.issue([], 1)  # error
    await verifier.payloads.put({})  # error
    await verifier.lease.acquire("orchestrator")  # error
    await verifier.garbage.sweep()  # error
    await generator.batches.cut(pb.TrainBatch(), 1)  # error
    await generator.groups.write_grades([])  # error
    await generator.weights.publish_version(pb.Version(), 1)  # error
    await learner.batches.cut(pb.TrainBatch(), 1)  # error
    await learner.groups.settle(None, "g", "kept", "", 1)  # error
    await orchestrator.batches.record_step(pb.StepReport(), [], 1)  # error
    await orchestrator.groups.write_grades([])  # error
    verifier.groups = verifier.groups  # error
"""


def test_a_role_may_do_what_its_facade_has_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "snippet.py"
    path.write_text(SNIPPET)
    # A process of its own: mypy raises the recursion limit of the one it runs in. From REPO it finds its settings.
    options = ["--no-error-summary", f"--cache-dir={tmp_path / 'cache'}"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(path)], capture_output=True, text=True, cwd=REPO, check=False
    )
    assert done.stderr == ""
    refused = re.findall(r"snippet\.py:(\d+): error: .*(?:has no attribute|read-only)", done.stdout)
    expected = [number for number, line in enumerate(SNIPPET.splitlines(), 1) if line.endswith("# error")]
    assert [int(line) for line in refused] == expected, done.stdout
    assert done.stdout.count("error:") == len(expected), done.stdout
