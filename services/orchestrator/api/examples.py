"""Examples in the OpenAPI document, by the name of the operation."""

from typing import Any

_ID = "reverse-20260102-030405-1a2b"
_SPEC = """\
name: reverse
model: {path: /data/models/qwen2.5-0.5b}
data: {path: /data/sets/reverse.jsonl}
training: {steps: 20}
"""
_RUN: dict[str, Any] = {
    "id": _ID,
    "name": "reverse",
    "state": "running",
    "run_dir": f"/srv/dapo/runs/{_ID}",
    "message": "",
    "step": 7,
    "steps_total": 20,
    "created_at": "2026-01-02T03:04:05.678+00:00",
    "ledger": {"issued": 4, "generated": 2, "scored": 0, "trained": 112, "filtered": 31},
    "labels": {"team": "reasoning", "sweep": "lr-3"},
    "notes": "",
    "priority": 0,
    "queue_position": None,
}
_GROUP = {
    "group_id": "g0000000012",
    "state": "filtered",
    "reason": "all wrong",
    "row_id": "train.jsonl:17",
    "issued_version": 6,
    "prompt": "user: 40 + 1?",
    "responses": 16,
    "correct": 0,
    "group_size": 16,
    "evaluation": None,
}
_PIPELINE = {
    "live": True,
    "version": 7,
    "groups": {"issued": 12, "generated": 3, "kept": 5, "trained": 56},
    "streams": [
        {
            "name": "prompts",
            "reader": "generator",
            "depth": 12,
            "oldest_s": 3.9,
            "oldest_group": "g0000000061",
            "oldest_worker": "generator-0",
        }
    ],
    "generators": [
        {
            "id": "generator-0",
            "state": "ready",
            "version": 7,
            "running": 44,
            "generated_tokens": 56_900,
            "busy_share": 0.92,
            "evaluates": False,
            "devices": ["host-1/0"],
        }
    ],
    "verifiers": {"wanted": ["verifier-0"], "alive": ["verifier-0"]},
    "learner": {"wanted": ["learner-0"], "alive": ["learner-0"], "training": False, "step": 8},
    "bottleneck": {
        "stage": "generation",
        "share": 0.65,
        "text": "the learner waits for its batch 65 % of a step",
    },
    "demand": {
        "generators": 3,
        "running": 2,
        "balance": 2.9,
        "reason": "with keep rate 0.41 and 96 tokens a response, 2.9 generators keep up with the learner, which waited "
        "65 % of a step; generators were idle for 2 %",
    },
}
_EXPORT = {
    "name": "step-000020.e1-bfloat16",
    "step": 20,
    "dtype": "bfloat16",
    "adapter": False,
    "state": "succeeded",
    "directory": f"/srv/dapo/runs/{_ID}/exports/step-000020.e1-bfloat16",
    "size": 988_108_512,
    "files": {"config.json": 721, "model.safetensors": 988_097_824, "tokenizer.json": 9_967},
    "problem": "",
    "warning": "",
}
PARAMETERS: dict[str, Any] = {"run_id": _ID, "group_id": "g0000000012", "worker": "learner-0", "lines": 100}
REQUESTS: dict[str, Any] = {
    "create_run": {"spec": _SPEC, "labels": {"team": "reasoning", "sweep": "lr-3"}},
    "resume_run": {"set": ["training.steps=40"]},
    "export_run": {"step": 20, "dtype": "bfloat16"},
    "update_run": {"labels": {"sweep": None, "kept": "yes"}, "notes": "the best so far"},
    "validate_spec": {"spec": _SPEC, "set": ["training.steps=40"]},
    "login": {"token": "dapo_…"},
}
ANSWERS: dict[str, Any] = {
    "healthz": {"status": "ok", "version": "0.1.0"},
    "readyz": {"status": "ready"},
    "who_am_i": {"name": "ada", "scope": "run"},
    "login": {"name": "ada", "scope": "run"},
    "create_run": {**_RUN, "state": "starting", "step": 0, "ledger": {}},
    "resume_run": {**_RUN, "state": "starting", "steps_total": 40},
    "get_run": _RUN,
    "list_runs": {"runs": [_RUN], "next": None},
    "cancel_run": {**_RUN, "state": "cancelled", "message": "cancelled on request"},
    "get_machine": {
        "gpus": {"total": 4, "free": 1},
        "cores": {"total": 64, "free": 52},
        "memory": {"total": 549_755_813_888, "free": 498_216_206_336},
        "runs": {"most": None, "under_way": 3},
        "queue": [{"run_id": _ID, "position": 1, "priority": 0, "reason": "needs 2 GPUs, 1 free of 4"}],
        "agents": [],
    },
    "stop_run": {**_RUN, "state": "stopped", "message": "stopped on request"},
    "update_run": {**_RUN, "labels": {"team": "reasoning", "kept": "yes"}, "notes": "the best so far"},
    "list_logs": {"workers": ["generator-0", "learner-0", "verifier-0"]},
    "tail_logs": "03:04:05 INFO step 7 trained\n",
    "watch_run": {"id": "1767323045678-0", "event": "state", "data": '{"state": "running"}'},
    "list_checkpoints": {
        "checkpoints": [{"step": 5, "directory": "step-000005.e1", "size": 1_984_133_120, "damage": ""}]
    },
    "export_run": {**_EXPORT, "state": "queued", "size": 0, "files": {}},
    "list_exports": {"exports": [_EXPORT]},
    "requeue_group": {"group": "g0000000012"},
    "get_spec": {"yaml": "name: reverse\nseed: 1\n"},
    "get_metrics": {
        "step": [6, 7],
        "columns": {"accuracy_mean": [0.41, 0.44], "kl_reference": [None, None]},
        "units": {"accuracy_mean": "share", "kl_reference": "nats"},
        "last_step": 7,
    },
    "list_groups": {"groups": [_GROUP]},
    "list_evaluations": {
        "evaluations": [
            {"step": 5, "set": "held-out", "samples": 4, "avg_at_k": {"value": 0.43, "low": 0.4, "high": 0.46}}
        ]
    },
    "get_pipeline": _PIPELINE,
}
PROBLEM: dict[str, Any] = {
    "type": "urn:dapo:problem:invalid_spec",
    "title": "The spec is refused",
    "status": 422,
    "detail": "training.steps = many: must be an integer. Set an integer (≥ 0); the default is 400",
    "instance": "/v1/runs",
    "problems": [
        {
            "field": "training.steps",
            "given": "many",
            "message": "must be an integer. Set an integer (≥ 0); the default is 400",
        }
    ],
}
