"""Batches: the run's write-ahead log."""

import json
from collections.abc import Mapping, Sequence

from google.protobuf.message import DecodeError

from dapo.bus.errors import BusError
from dapo.bus.parts.garbage import Garbage
from dapo.bus.parts.part import Context, Part
from dapo.bus.server import scripts
from dapo.v1 import messages_pb2 as pb

_STEPS = 10_000
"""Step reports kept, about; older ones leave (metrics.jsonl keeps them all)."""
_FLUSH_MS = 20_000


class Batches(Part):
    """What the orchestrator has cut and the learner has trained.

    Keys: `batches`, a stream whose ids are (batch number + 1)-0, so a batch number is a position in it; `steps`, a
    stream of about 10,000 reports with ids of the same kind; `log`, the number that is cut next and the last trained.
    Promises: batches are numbered without a gap; a batch and the ledger's moves of its groups are one step, and so are
    a step's report and its; only a checkpoint takes a batch, and the payloads it needs, away again.
    Restart: a learner reads on behind its checkpoint; what it had trained since is trained again, yet not recorded
    twice. All of it is in Redis, and on disk once `sync_to_disk` has returned.
    """

    def __init__(self, context: Context, garbage: Garbage) -> None:
        super().__init__(context)
        self._garbage = garbage

    async def cut(
        self,
        batch: pb.TrainBatch,
        epoch: int,
        *,
        metrics: Mapping[str, float] | None = None,
        passed: Sequence[str] = (),
    ) -> None:
        """Appends the batch and moves its groups from kept to batched, or does nothing at all.

        `metrics`: what was measured of it, for the orchestrator that writes its step's row; `passed`: ids of the groups
        that were passed over for it.
        Repeating the same batch changes nothing. Raises Fenced, LedgerError for a group that is not kept, BusError
        when the number is not the next.
        """
        ids = [group.group_id for group in batch.groups]
        data = batch.SerializeToString(deterministic=True)
        measured = "" if metrics is None else json.dumps(metrics)
        await self._script("cut_batch", epoch, batch.batch, data, measured, len(ids), *ids, *passed)

    async def read(self, after: int, *, block_s: float, count: int = 1) -> list[pb.TrainBatch]:
        """Up to `count` batches with numbers above `after` (−1: from the start of the log), in order."""
        found = await self._context.read_stream(self._keys.batches, f"{after + 1}-0", block_s=block_s, count=count)
        return [self._batch(entry, fields) for entry, fields in found]

    async def reaches_back(self, step: int) -> bool:
        """Whether the log has the next batch of a learner that has done so many steps, with all that follow."""
        first = await self.read(-1, block_s=0)
        return bool(first) and first[0].batch <= step

    async def record_step(self, report: pb.StepReport, group_ids: Sequence[str], epoch: int) -> None:
        """Publishes a finished step and moves its groups from batched to trained.

        Idempotent per batch, so a replay is silent. Raises Fenced, LedgerError, BusError when a batch is left out.
        """
        await self._script("record_step", epoch, report.batch, report.SerializeToString(), _STEPS, *group_ids)

    async def read_steps(self, after: str, *, block_s: float) -> list[tuple[str, pb.StepReport]]:
        """(id, report) of steps after id `after` ("0": from the first kept)."""
        return await self._context.read_messages(pb.StepReport, self._keys.steps, after, block_s=block_s)

    async def commit_checkpoint(self, batch: int, epoch: int) -> None:
        """Batches up to `batch` leave the log; their payloads are deleted. Call it once the checkpoint is complete.

        Raises Fenced, and BusError when steps up to `batch` were not recorded.
        """
        found = await self._control.run(self._control.client.xrange, self._keys.batches, "-", f"{batch + 1}-0")
        covered = [self._batch(entry.decode(), fields) for entry, fields in found]
        ids = [group.group_id for item in covered for group in item.groups]
        await self._script("commit_checkpoint", epoch, batch, *ids)
        await self._garbage.sweep()

    async def sync_to_disk(self) -> None:
        """Returns once all that was written before is in the append-only file on disk.

        Does nothing where the server keeps no such file or has no WAITAOF (before Redis 7.2: use appendfsync always).
        Raises BusError after 20 s.
        """
        for server in self._context.servers:
            # WAITAOF looks at its own connection's last write, so it needs one, also where memory is full.
            pipeline = server.client.pipeline(transaction=False)
            script = scripts.sources()["small_write"]
            pipeline.execute_command("EVAL", script, 1, self._keys.prefix, *server.term, "SET", self._keys.sync, b"")
            pipeline.execute_command("WAITAOF", 1, 0, _FLUSH_MS)
            written, reply = await server.run(pipeline.execute, raise_on_error=False)
            if isinstance(written, Exception):
                raise BusError(f"{self._keys.sync} cannot be written at {server.shown}: {written}") from written
            if isinstance(reply, Exception):
                if "appendonly is disabled" not in str(reply) and "unknown command" not in str(reply):
                    raise BusError(f"WAITAOF at {server.shown}: {reply}") from reply
            elif reply[0] < 1:
                raise BusError(
                    f"The server at {server.shown} had not written its append-only file within {_FLUSH_MS // 1000} s:"
                    " look at its disk (INFO persistence)"
                )

    def _batch(self, entry: str, fields: dict[bytes, bytes]) -> pb.TrainBatch:
        try:
            return pb.TrainBatch.FromString(fields[b"data"])
        except (DecodeError, KeyError) as error:
            raise BusError(
                f"entry {entry} of {self._keys.batches} is no TrainBatch ({error}): resume from a checkpoint"
            ) from error
