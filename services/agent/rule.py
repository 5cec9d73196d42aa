"""What an agent does next. Pure: what it has and what it was answered in, a move out."""

from enum import StrEnum

from dapo.bus.agents import Answer, Order
from dapo.bus.keys import is_run_id
from dapo.spec.workloads import MODULES

ORPHANED_S = 900.0
"""So long a worker goes on whose run nobody leads: a run service that was killed may come back and take it over."""
_PREFIX, _NAMES = "DAPO_", ("HF_HUB_OFFLINE",)
"""How variables begin that an order may set, and their other names: others could change which code runs, or where it
writes."""


class Move(StrEnum):
    REST = "rest"
    START = "start"
    """Run the worker of the order that was answered."""
    END = "end"
    """End the worker's process."""
    CLEAR = "clear"
    """There is no process of the order (any more): say so, and be free."""


def next_move(held: Order | None, *, runs: bool, answer: Answer, leaving: bool, unled_s: float) -> Move:
    """`held`: the order that the agent carries out; `runs`: its process lives. `unled_s`: for how long nobody has led
    the order's run. An order that ended by itself stays held, for its end to be seen, until it is withdrawn."""
    if held is None:
        if answer.order is None or leaving:
            return Move.REST
        return Move.CLEAR if answer.stop else Move.START
    withdrawn = answer.stop or answer.run == "over" or answer.order is None or answer.order.number != held.number
    if runs:
        return Move.END if withdrawn or leaving or unled_s >= ORPHANED_S else Move.REST
    return Move.CLEAR if withdrawn or leaving else Move.REST


def refusal(order: Order, role: str) -> str:
    """Why this agent does not carry the order out, in words; "": it does. An order chooses a worker and its variables,
    and no other code; what the worker does is for the run's spec to say."""
    if order.role != role or MODULES.get(order.role) != order.module:
        return f"an agent for the role {role} does not run {order.module} as {order.role}"
    # Ids become names of files.
    if strange := [one for one in (order.run_id, order.worker_id) if not is_run_id(one)]:
        return f"{strange[0]!r} is no id of a run or worker: letters, digits, '.', '_' and '-', the first no '.'"
    if wrong := sorted(name for name in order.environment if not name.startswith(_PREFIX) and name not in _NAMES):
        return f"an order may not set {', '.join(wrong)}: only what begins with {_PREFIX}, and {', '.join(_NAMES)}"
    return ""
