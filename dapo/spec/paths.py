"""Paths in a spec: which name a file here, and what they resolve to."""

import os
import re

DATA_SUFFIXES = (".jsonl", ".parquet")


def is_local_model(path: str) -> bool:
    """True for a directory on this machine, false for a hub name such as `Qwen/Qwen2.5-32B`.

    A path that begins with `/`, `.` or `~` is local whether it exists or not, so that a typing error in it is never
    looked up on a hub.
    """
    return path.startswith(("/", ".", "~")) or os.path.isdir(path)


def is_hub_dataset(path: str) -> bool:
    """True for a hub name such as `openai/gsm8k`; false for a data file or for a folder on this machine."""
    hub = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", path) is not None
    return hub and not path.lower().endswith(DATA_SUFFIXES) and not os.path.lexists(path)


def absolute(path: str) -> str:
    """The path from the current directory, with `~` expanded and no `..` left."""
    return os.path.abspath(os.path.expanduser(path))


def file_path(uri: str) -> str | None:
    """Of `file:a/b` the relative path, of `file:///a/b` the absolute one; None for what is no `file:` URI."""
    if not uri.startswith("file:"):
        return None
    path = uri.removeprefix("file:")
    return path.removeprefix("//") if path.startswith("///") else path
