"""The weight channel with the GPU's tensors: over NCCL, and over gloo where two share a GPU.

Two ranks share one GPU only with NCCL 2.30 or newer and NCCL_MULTI_RANK_GPU_ENABLE=1 in the environment.
"""

import hashlib
import threading
import time
from datetime import timedelta
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from dapo.host.devices import device_names  # noqa: E402
from services.learner.weights.transport import WeightGroup, WeightGroupError, choose_backend  # noqa: E402
from tests.support.learner.weight_peer import next_hash, peer  # noqa: E402
from tests.support.nccl import SHARING, may_share_a_gpu  # noqa: E402

DEADLINE_S = 10.0
MIB = 2**20


def random_bytes(count: int, seed: int) -> Any:
    return torch.randint(0, 256, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_workers_on_one_gpu_use_gloo_and_others_nccl() -> None:
    names = device_names()
    assert names
    assert choose_backend("auto", names, names) == "gloo"
    assert choose_backend("auto", names, ["elsewhere/GPU-1"]) == "nccl"
    assert choose_backend("auto", names, []) == "gloo"


def test_gloo_sends_what_lies_on_the_gpu() -> None:
    from tests.support.receiving import ReceivingGroup

    data = random_bytes(5 * MIB, 1)
    group = WeightGroup("gloo", 2, "gloo", DEADLINE_S, "127.0.0.1")
    received = []

    def receive() -> None:
        other = ReceivingGroup("gloo", "127.0.0.1", group.port, 2, "gloo", timedelta(seconds=DEADLINE_S))
        received.append(other.receive(len(data)))

    thread = threading.Thread(target=receive)
    thread.start()
    group.join(DEADLINE_S)
    group.broadcast(data.cuda(), DEADLINE_S)
    thread.join(DEADLINE_S)
    group.close()
    assert torch.equal(received[0], data)


def test_a_nccl_group_of_one_sends_and_is_closed() -> None:
    group = WeightGroup("one", 1, "nccl", DEADLINE_S, "127.0.0.1")
    group.join(DEADLINE_S)
    data = random_bytes(MIB, 2).cuda()
    group.broadcast(data, DEADLINE_S)
    group.close()
    assert torch.equal(data.cpu(), random_bytes(MIB, 2))
    with pytest.raises(WeightGroupError, match="after close"):
        group.broadcast(data, DEADLINE_S)


def test_a_nccl_peer_that_never_comes_costs_its_deadline_and_nothing_else(figures: Any) -> None:
    """Neither the process, nor the GPU: the next group works."""
    with peer("alone", DEADLINE_S) as process:
        output, _ = process.communicate(timeout=12 * DEADLINE_S)
    # NCCL may print there, too.
    said = {line.split()[0]: line for line in output.splitlines() if line.startswith(("refused", "closed", "alive"))}
    figures(**said)
    assert process.returncode == 0, output
    assert list(said) == ["refused", "closed", "alive"]
    assert float(said["refused"].split()[2]) < 2 * DEADLINE_S
    assert float(said["closed"].split()[2]) < 3 * DEADLINE_S


@pytest.fixture
def shared_gpu() -> None:
    if not may_share_a_gpu():
        pytest.skip(f"two ranks on one GPU need NCCL 2.30 and {SHARING}=1")


@pytest.mark.usefixtures("shared_gpu")
def test_nccl_brings_the_bytes_and_a_peer_that_stands_still_is_given_up(figures: Any) -> None:
    count, times = 256 * MIB, 3
    group = WeightGroup("pair", 2, "nccl", DEADLINE_S, "127.0.0.1")
    with peer("receive", "nccl", "pair", group.port, count, times) as process:
        group.join(DEADLINE_S)
        for seed in range(times):
            data = random_bytes(count, seed)
            began = time.monotonic()
            group.broadcast(data.cuda(), 6 * DEADLINE_S)
            figures(seconds=time.monotonic() - began, mib=count // MIB)
            assert next_hash(process) == hashlib.sha256(data.numpy().tobytes()).hexdigest()
        # It lives, and takes part in nothing more; 256 MiB would fit into NCCL's buffers.
        much = torch.zeros(4 * 1024 * MIB, dtype=torch.uint8, device="cuda")
        began = time.monotonic()
        with pytest.raises(WeightGroupError, match=f"longer than {DEADLINE_S:g} s"):
            group.broadcast(much, DEADLINE_S)
        figures(given_up_after_s=time.monotonic() - began)
        assert time.monotonic() - began < 2 * DEADLINE_S
    group.close()
    after = WeightGroup("after", 1, "nccl", DEADLINE_S, "127.0.0.1")
    after.join(DEADLINE_S)
    after.broadcast(data.cuda(), DEADLINE_S)
    after.close()
