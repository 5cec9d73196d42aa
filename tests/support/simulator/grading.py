"""A grader for texts that mean nothing: a fair coin for each text, the same at every toss."""

from hashlib import blake2b


def coin(response: str, gold: str) -> bool:
    return blake2b(f"{gold}/{response}".encode(), digest_size=1).digest()[0] % 2 == 0
