"""The wire: arrays in fixed byte order, and generated code that matches proto/."""

import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.contracts.arrays import decode_ids, decode_logprobs, encode_ids, encode_logprobs
from dapo.v1 import messages_pb2 as pb
from tests.support.paths import REPO

int32 = st.integers(-(2**31), 2**31 - 1)
float32 = st.floats(width=32, allow_nan=False)


@given(st.lists(int32))
def test_ids_round_trip(ids: list[int]) -> None:
    assert decode_ids(encode_ids(ids)) == ids


@given(st.lists(float32))
def test_logprobs_round_trip(logprobs: list[float]) -> None:
    assert decode_logprobs(encode_logprobs(logprobs)) == logprobs


def test_bytes_are_little_endian_and_four_wide() -> None:
    assert encode_ids([1, 258]) == bytes.fromhex("01000000 02010000")
    assert encode_logprobs([-0.5]) == bytes.fromhex("000000bf")


def test_logprobs_keep_float32_precision() -> None:
    [back] = decode_logprobs(encode_logprobs([math.log(1 / 3)]))
    assert abs(back - math.log(1 / 3)) < 1e-7


@pytest.mark.parametrize("token", [2**31, -(2**31) - 1])
def test_ids_beyond_int32_are_refused(token: int) -> None:
    with pytest.raises(OverflowError):
        encode_ids([token])


def test_payload_carries_arrays_unchanged() -> None:
    ids, logprobs = [5, 6, 7], [-0.25, -0.5, -1.0]
    sent = pb.CompletionPayload(response_ids=encode_ids(ids), logprobs=encode_logprobs(logprobs))
    received = pb.CompletionPayload.FromString(sent.SerializeToString())
    assert decode_ids(received.response_ids) == ids
    assert decode_logprobs(received.logprobs) == logprobs


@pytest.mark.skipif(importlib.util.find_spec("grpc_tools") is None, reason="grpcio-tools is not installed")
def test_generated_code_is_fresh(tmp_path: Path) -> None:
    outputs = [f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    for proto, extra in (("messages", []), ("run", [f"--grpc_python_out={tmp_path}"])):
        command = [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            "-Iproto",
            *outputs,
            *extra,
            f"proto/dapo/v1/{proto}.proto",
        ]
        subprocess.run(command, cwd=REPO, check=True)
    made = {path.name: path.read_bytes() for path in (tmp_path / "dapo" / "v1").iterdir()}
    kept = {path.name: path.read_bytes() for path in (REPO / "dapo" / "v1").iterdir() if path.name in made}
    assert len(made) == 5
    assert made == kept, "run `make proto`"
