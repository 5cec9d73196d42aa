"""How responses are graded, and what reward a verdict gives."""

from typing import Literal

from pydantic import Field

from dapo.spec.tree.base import Section
from dapo.spec.tree.graders import GraderSpec


class RewardSpec(Section):
    grader: str = Field(default="math_dapo", min_length=1)
    """Rule that says whether a response is correct, where neither the row nor its source names another: a key of
    `reward.graders`, a built-in one, or `python:module:function`."""
    graders: dict[str, GraderSpec] = Field(default={})
    """Graders with options, by names of your own."""
    base: Literal["correct", "score"] = "correct"
    """What the reward is made of. correct: one of the two values below. score: between them, by the grader's score.
    Dynamic sampling goes by the verdict in both."""
    correct: float = 1.0
    """Reward of a correct response, or of the score 1."""
    incorrect: float = -1.0
    """Reward of any other response, or of the score 0."""
    overlong_buffer_tokens: int = Field(default=4096, gt=0)
    """L_cache: the soft punishment falls from 0 to −1 over the last L_cache of `sampling.max_response_tokens`."""
    grader_processes: int = Field(default=2, gt=0)
    """Grading processes of one verifier."""
    grader_timeout_s: float = Field(default=2.0, gt=0)
    """A grading that takes longer is killed and has failed with the reason `timeout`. `code`, `remote` and `judge` have
    deadlines of their own."""
    grader_memory_mib: int = Field(default=1024, ge=64)
    """Address space of a grading process."""
    grader_failure: Literal["wrong", "fail_group"] = "wrong"
    """What a grading that failed (timeout, crash, nonsense of a service) does: count as wrong, or fail its group.

    A service out of reach is none of these: it is asked again for half an hour, then the group fails."""
