"""Samples to test with."""

from dapo.bus import GroupRecord
from dapo.v1 import messages_pb2 as pb
from services.orchestrator.records.samples import make_sample

HOSTILE = "\x1b]0;owned\x07\x1b[2J[bold]no markup[/bold] [/red] \u202egnp.exe\r\x9b31m\u2028 :smile:"


def record(step=3, number=0, verdicts=(True, False), *, row_id="train.jsonl:1", prompt="Add.", evaluation="", **fields):
    group_id = f"g{number:010d}"
    grades = []
    for index, correct in enumerate(verdicts):
        completion = pb.Completion(
            group_id=group_id, index=index, response_tokens=7, version_min=step, version_max=step + index,
            finish_reason=pb.FINISH_REASON_LENGTH if index == 1 else pb.FINISH_REASON_STOP,
        )  # fmt: skip
        values = {"score": float(correct), "reward": 0.1, "reason": "equal" if correct else "different"} | fields
        grades.append(pb.Grade(completion=completion, correct=correct, **values))
    task = pb.PromptTask(
        group_id=group_id, row_id=row_id, prompt=pb.Prompt(text=prompt), gold="41", grader="exact",
        group_size=len(verdicts), issued_version=step, evaluation=evaluation,
    )  # fmt: skip
    return GroupRecord(group_id, task, "scored", "", grades)


def sample(*args, texts=None, outcome="kept", **kwargs):
    found = record(*args, **kwargs)
    return make_sample(found, texts or [b"text"] * len(found.grades), outcome)


def evaluated(step, row, verdicts, answers):
    made = sample(
        step, row, verdicts, row_id=f"aime:{row}", prompt=f"Problem {row}", evaluation="aime", outcome="evaluated"
    )
    responses = [r.model_copy(update={"extracted": a}) for r, a in zip(made.responses, answers, strict=True)]
    return made.model_copy(update={"responses": tuple(responses)})


def over_steps():
    """Two steps; row 1 is right at the second only, row 2 at the first only, row 3 at none, row 4 comes later."""
    yes, no = (True, True, False), (False, False, True)
    rows = {0: {1: no, 2: yes, 3: no}, 10: {1: yes, 2: no, 3: no, 4: yes}}
    answers = {yes: ("41", "41", "7"), no: ("7", "7", "41")}
    return {step: [evaluated(step, row, v, answers[v]) for row, v in found.items()] for step, found in rows.items()}
