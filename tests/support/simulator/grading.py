"""A grader for texts that mean nothing: a fair coin for each text, the same at every toss."""

from hashlib import blake2b
from pathlib import Path


def coin(response: str, gold: str) -> bool:
    return blake2b(f"{gold}/{response}".encode(), digest_size=1).digest()[0] % 2 == 0


def some(response: str, gold: str) -> bool:
    """A coin where the prompt is one of the share that the file says, and else wrong. `gold`: FILE#NAME."""
    path, _, name = gold.rpartition("#")
    share = float(Path(path).read_text())
    prompt = blake2b(name.encode(), digest_size=1).digest()[0] / 256
    return prompt < share and coin(response, gold)
