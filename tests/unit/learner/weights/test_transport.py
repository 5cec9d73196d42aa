"""What carries the weights, and where the learner listens for those who fetch them."""

import pytest

pytest.importorskip("torch")

from services.learner.weights.transport import WeightGroup, choose_backend


@pytest.mark.parametrize(
    ("wanted", "sender", "receiver", "chosen"),
    [
        ("auto", ["a/0"], ["a/1", "a/2"], "nccl"),
        ("auto", ["a/0"], ["b/0"], "nccl"),
        ("auto", ["a/0"], ["a/0"], "gloo"),
        ("auto", ["a/0"], ["a/1", "a/0"], "gloo"),
        ("auto", [], ["a/1"], "gloo"),
        ("auto", ["a/0"], [], "gloo"),
        ("auto", [], [], "gloo"),
        ("nccl", [], [], "nccl"),
        ("gloo", ["a/0"], ["a/1"], "gloo"),
    ],
)
def test_nccl_only_between_gpus_that_are_not_shared(
    wanted: str, sender: list[str], receiver: list[str], chosen: str
) -> None:
    assert choose_backend(wanted, sender, receiver) == chosen


def test_a_group_listens_at_its_address_alone() -> None:
    import socket

    group = WeightGroup("g", 2, "gloo", 5.0, "127.0.0.2")
    try:
        with socket.create_connection(("127.0.0.2", group.port), timeout=5):
            pass
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", group.port), timeout=5)
    finally:
        group.close()
