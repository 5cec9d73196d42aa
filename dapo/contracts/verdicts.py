"""What a verdict's reason says of who is to blame."""

UNAVAILABLE = "unavailable"
"""The grader is out of reach, or could not be set up: there is no verdict on any response."""

GRADER_FAILURES = frozenset({"timeout", "crash", UNAVAILABLE, "bad_reply", "bad_gold", "unknown_grader"})
"""Reasons that speak of the grader, not of the response: it hung, died, was out of reach or answered nonsense, the gold
answer is not what it reads, or there is no such grader."""
