"""Token ids, log-probabilities and masks as little-endian bytes: what payloads carry instead of pickles."""

import sys
from array import array
from collections.abc import Sequence


def _encode(typecode: str, values: Sequence[float]) -> bytes:
    data = array(typecode, values)
    if sys.byteorder == "big":
        data.byteswap()
    return data.tobytes()


def encode_ids(ids: Sequence[int]) -> bytes:
    """Token ids as int32. Raises OverflowError beyond 2**31 − 1."""
    return _encode("i", ids)


def encode_logprobs(logprobs: Sequence[float]) -> bytes:
    """Natural logarithms of probabilities as float32."""
    return _encode("f", logprobs)


def _decode(typecode: str, data: bytes) -> list:
    values = array(typecode)
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()


def decode_ids(data: bytes) -> list[int]:
    """Inverse of `encode_ids`. Raises ValueError for bytes that are no whole number of ids."""
    return _decode("i", data)


def decode_logprobs(data: bytes) -> list[float]:
    """Inverse of `encode_logprobs`. Raises ValueError for bytes that are no whole number of float32."""
    return _decode("f", data)
