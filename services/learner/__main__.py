"""`python -m services.learner`: one rank of a run's learner. See docs/architecture.md for its environment."""

import logging
import signal
import sys
import threading
from contextlib import nullcontext
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

from dapo.bus import Bus, BusError
from dapo.host.addresses import bind_collectives
from dapo.host.processes import die_with_parent
from dapo.host.storage import EXIT_CODE, StorageError, in_words, is_storage_error
from dapo.records.checkpoints import CheckpointError
from dapo.spec import RunSpec
from dapo.telemetry import logs
from dapo.worker import WorkerEnvironment, leave, tell_last
from services.learner.background import ControlLoop
from services.learner.signs import keep_announcing, memory_filled
from services.learner.step.payloads import BatchLost

if TYPE_CHECKING:
    from services.learner.loop import LearnerLoop

log = logging.getLogger("services.learner")

_HEARTBEAT_S = 2.0
_STOPPED = 128 + signal.SIGTERM
"""Exit code after SIGTERM: the run may not be taken for finished because its learner was stopped."""


def stop_on_sigterm() -> None:
    """Exit 143 at the first SIGTERM, whatever the main thread is inside of; 0 is for a run that has ended.

    Nothing needs saving: the batch log holds what is trained but not yet in a checkpoint. A thread of its own takes the
    signal, because Python runs signal handlers only between two instructions of the main thread, and that thread may
    hang in a collective whose peer has just been stopped. Call it before any other thread exists.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        signal.sigwait({signal.SIGTERM})
        log.info("stopped by SIGTERM")
        leave(_STOPPED)

    threading.Thread(target=wait, name="sigterm", daemon=True).start()


def run() -> None:
    environment = WorkerEnvironment.read()
    environment.configure_logs("learner")

    control = ControlLoop()
    bus = control.call(environment.connect())
    spec = RunSpec.model_validate_json(control.call(bus.runs.spec()))
    if environment.replica == 0:
        environment.export_metrics(bus)
    bind_collectives(environment.address)
    with control.beside(keep_announcing(bus, "loading", memory_filled)) if environment.replica == 0 else nullcontext():
        loop = _load(environment, spec, bus, control)
        loop.start()
    loop.run()
    log.info("the run has ended at step %d", loop.step)


def _load(environment: WorkerEnvironment, spec: RunSpec, bus: Bus, control: ControlLoop) -> "LearnerLoop":
    """The ranks meet, and each has its models."""
    # Torch and DeepSpeed take seconds to import: only now, when the process can already be stopped and has a log.
    from services.learner.distributed import join_ranks
    from services.learner.rendezvous import announce_store, find_store, open_store

    # Before whatever may take long, but not before these imports: an interpreter that they hold cannot be heard.
    control.repeat(_HEARTBEAT_S, partial(bus.registry.beat, "learner", environment.worker_id))

    rank, world_size, address = environment.replica, environment.replicas, environment.address
    device = spec.resources.learner.device
    if rank == 0:
        store, where = open_store(address, world_size)
        with control.beside(announce_store(bus, where)):
            ranks = join_ranks(device, store, rank=rank, world_size=world_size)
    else:
        store = find_store(control, bus, world_size)
        ranks = join_ranks(device, store, rank=rank, world_size=world_size)

    from transformers.utils import logging as transformers_logging

    from services.learner.loop import LearnerLoop
    from services.learner.model.lora import add_lora
    from services.learner.model.policy import PolicyModel, ValueModel, load_causal, masked_ids
    from services.learner.step.engine import LearnerEngine
    from services.learner.step.trainer import Trainer

    logs.take_over("DeepSpeed", "transformers")
    transformers_logging.disable_progress_bar()
    load = partial(load_causal, spec.model.path, spec.model.dtype)
    algorithm = spec.algorithm
    trained = load()
    add_lora(trained, spec.lora, spec.seed)
    policy = PolicyModel(
        trained,
        spec.sampling.temperature,
        masked=masked_ids(trained),
        entropy_gradient=algorithm.entropy_coefficient > 0,
        float32_head=spec.model.head_dtype == "float32",
    )
    engine = LearnerEngine(policy, spec, ranks)
    value = LearnerEngine(ValueModel(load()), spec, ranks) if algorithm.advantage_estimator == "gae" else None
    trainer = Trainer(spec, engine, value, load() if algorithm.needs_reference else None)
    return LearnerLoop(spec, environment, ranks, bus, control, trainer, address)


def report_and_leave(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The error as the last line, after its traceback where it may be the program's fault; other ranks and threads are
    not waited for."""
    # Past sys.stderr: torch.distributed puts a buffer of its own in its place while this hook runs.
    if isinstance(error, StorageError) or is_storage_error(error):
        tell_last(in_words(error))
        leave(EXIT_CODE)
    if not isinstance(error, BusError | CheckpointError | BatchLost):
        log.critical("the learner failed", exc_info=(kind, error, trace))
    tell_last(f"{kind.__name__}: {error}")
    leave(1)


def main() -> None:
    stop_on_sigterm()
    die_with_parent()
    sys.excepthook = report_and_leave
    run()
    leave(0)


if __name__ == "__main__":
    main()
