"""A grader whose import ends the process."""

import os

os._exit(3)


def grade(text: str, gold: str) -> bool:
    return True
