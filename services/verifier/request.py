"""What a grader is asked."""

from typing import NamedTuple


class GradingRequest(NamedTuple):
    """One response to grade."""

    grader: str
    """Name of a built-in grader, or of one that the spec names."""
    text: str
    gold: str
    prompt: str = ""
    """What the response answers; used by remote graders only."""
    begun: str = ""
    """What the prompt has written of the response already; it may have opened the thinking."""
