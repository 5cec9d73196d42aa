"""What a request to the run service is refused with."""

from pathlib import Path

from dapo.bus.keys import GROUP_ID
from dapo.host.storage import in_words, is_storage_error
from dapo.spec.problem import Problem
from dapo.spec.wording import shown_given


class RunNotFound(LookupError):
    """No run of this service has that id."""


class RunConflict(RuntimeError):
    """The request does not fit the state of things."""


class FolderTaken(RunConflict):
    """The folder of a new run holds one already."""


class StorageRefused(RuntimeError):
    """A disk of the service refuses what the request needs written, e.g. as it is full."""


class BadField(ValueError):
    """A field of a request, other than the spec, cannot be what it is; the message names it. What is called as secrets
    are is not repeated."""

    def __init__(self, field: str, message: str, given: object = None) -> None:
        problem = Problem(field, shown_given(field, given), message)
        super().__init__(str(problem))
        self.field, self.given, self.message = problem.field, problem.value, message


class ServiceStopping(RuntimeError):
    """The service is shutting down and takes no new run."""


def unusable(what: str, error: Exception, path: Path) -> RunConflict | StorageRefused:
    """What a request is refused with where a file below `path` cannot be used; `what` is not done for it."""
    kind = StorageRefused if is_storage_error(error) else RunConflict
    return kind(f"{what}: {in_words(error, path)}")


def checked_group(group_id: str) -> str:
    """Raises BadField for what is no group id."""
    if not GROUP_ID.fullmatch(group_id.encode()):
        raise BadField("group", "is no group id: g or e (of an evaluation) and ten digits, e.g. g0000000012", group_id)
    return group_id
