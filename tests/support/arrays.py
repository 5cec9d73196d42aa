"""Reads what dapo.contracts.arrays writes."""

import numpy as np


def decode_ids(data: bytes) -> list[int]:
    return np.frombuffer(data, "<i4").tolist()


def decode_logprobs(data: bytes) -> list[float]:
    return np.frombuffer(data, "<f4").tolist()
