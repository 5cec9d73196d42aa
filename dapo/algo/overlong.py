"""Soft overlong punishment (DAPO, arXiv 2503.14476 eq. 13)."""


def overlong_penalty(response_tokens: int, *, max_response_tokens: int, buffer_tokens: int) -> float:
    """In [−1, 0], to be added to the reward.

    0 up to L_max − L_cache tokens (EOS counted once), then falling linearly to −1 at L_max = `max_response_tokens`;
    L_cache = `buffer_tokens`, above 0. Longer responses stay at −1.
    """
    excess = response_tokens - (max_response_tokens - buffer_tokens)
    if excess <= 0:
        return 0.0
    return -min(excess / buffer_tokens, 1.0)
