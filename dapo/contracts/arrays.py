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
