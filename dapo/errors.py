"""Reads what a TaskGroup raises."""


def first_leaf(error: BaseException) -> BaseException:
    """The first error itself, out of its groups; an error that is no group is its own."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
