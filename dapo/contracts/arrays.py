"""Token ids, log-probabilities and masks as little-endian bytes: what payloads carry instead of pickles."""

import sys
from array import array
from collections.abc import Sequence

_SWAP = sys.byteorder == "big"


def _encode(typecode: str, values: Sequence[float]) -> bytes:
    data = array(typecode, values)
    if _SWAP:
        data.byteswap()
    return data.tobytes()


def _decode(typecode: str, data: bytes) -> array:
    values = array(typecode)
    if len(data) % values.itemsize:
        raise ValueError(f"{len(data)} bytes are not a whole number of {values.itemsize}-byte values")
    values.frombytes(data)
    if _SWAP:
        values.byteswap()
    return values


def encode_ids(ids: Sequence[int]) -> bytes:
    """Token ids as int32. Raises OverflowError beyond 2**31 − 1."""
    return _encode("i", ids)


def decode_ids(data: bytes) -> "array[int]":
    return _decode("i", data)


def encode_logprobs(logprobs: Sequence[float]) -> bytes:
    """Natural logarithms of probabilities as float32."""
    return _encode("f", logprobs)


def decode_logprobs(data: bytes) -> "array[float]":
    return _decode("f", data)
