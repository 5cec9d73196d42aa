"""What each driver can do, and what they are told of the service."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol


class Place(NamedTuple):
    """Of a run service."""

    url: str
    grpc_address: str
    token: str


class Happening(NamedTuple):
    """An event of a run."""

    id: str
    kind: str
    data: dict[str, Any]


class Driver(Protocol):
    """Each method asks the service once, but for `export`, which waits until the folder is there."""

    def __init__(self, place: Place) -> None: ...

    def create(self, spec: dict[str, Any]) -> str:
        """The run's id."""

    def watch(self, run_id: str) -> Iterator[Happening]:
        """All events, until the run has ended."""

    def scale(self, run_id: str, generators: int) -> None: ...

    def why(self, run_id: str, group_id: str) -> dict[str, Any]:
        """The explanation as JSON."""

    def stop(self, run_id: str) -> tuple[str, int]:
        """State and step."""

    def resume(self, run_id: str, changes: Sequence[str]) -> None: ...

    def export(self, run_id: str) -> str:
        """The folder with the exported model."""
