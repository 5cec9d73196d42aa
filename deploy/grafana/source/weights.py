"""*Weights and checkpoints*: how new weights reach generators, and what a crash would cost."""

from deploy.grafana.source.generators import by_steps
from deploy.grafana.source.panels import Dashboard, Panel, Row
from deploy.grafana.source.run import of_run

_RUN = '{run="$run"}'

_SYNC = Row("Weight updates", (
    Panel("Weight sync", "From the end of training until every ready generator served the new weights, of the last step. "
          "Beyond a tenth of a step: see the network and weight_sync.",
          {"sync": of_run("weight_sync_seconds"), "longest pause": of_run("weight_pause_seconds")}, unit="s",
          limits=(0, None)),
    Panel("Sync, distribution", "The same over an hour; a tail is a generator that joins or fails.",
          by_steps("dapo_learner_weight_sync_seconds", _RUN), unit="s", limits=(0, None)),
    Panel("Pause of each generator", "How long it stood still for new weights, over an hour.",
          by_steps("dapo_generator_weight_pause_seconds", _RUN), unit="s", limits=(0, None)),
    Panel("Members", "Generators that get the learner's weights, beside those that are ready.",
          {"members": f"dapo_learner_weight_members{_RUN}", "ready": of_run("generators_ready")}, limits=(0, None)),
    Panel("Updates at generators", "A second, by outcome. Failed ones: the generator's log says why.",
          {"{{outcome}}": f"sum by (outcome) (rate(dapo_generator_weight_updates_total{_RUN}[$__rate_interval]))"}),
    Panel("Generators that failed", "To join or to take an update; left out for a while (quarantine).",
          {"{{phase}}": f"sum by (phase) (increase(dapo_learner_weight_failures_total{_RUN}[$__range]))"},
          kind="bars", warn=1),
))  # fmt: skip
_CHECKPOINTS = Row("Checkpoints", (
    Panel("Steps behind", "Steps since the newest checkpoint: what a crash of the whole machine would do again; and, where it has a "
          "mirror, since the newest one there: what the loss of the volume would.",
          {"steps": f"max by (run) (dapo_run_step{_RUN}) "
           f"- (max by (run) (dapo_run_checkpoint_step{_RUN}) or 0 * max by (run) (dapo_run_step{_RUN}))",
           "mirror": f"max by (run) (dapo_run_step{_RUN}) - max by (run) (dapo_run_mirror_step{_RUN})"},
          limits=(0, None)),
    Panel("Age", "What a crash would cost: since the newest checkpoint was written, or later than that the run began or was resumed; "
          "and the usual time between two.",
          {"age": f"time() - dapo_run_checkpoint_timestamp_seconds{_RUN}",
           "between two": f"dapo_run_checkpoint_interval_steps{_RUN} * avg_over_time(dapo_run_step_seconds{_RUN}[1h])"},
          unit="s", limits=(0, None)),
    Panel("Time of a checkpoint", "From its beginning until it counts, over an hour; beside training where memory allows.",
          by_steps("dapo_learner_checkpoint_seconds", _RUN), unit="s", limits=(0, None)),
))  # fmt: skip
_LEARNER = Row("Learner", (
    Panel("Step", "Wall time of a step over an hour, of rank 0, which exports for all ranks.", by_steps("dapo_learner_step_seconds", _RUN), unit="s",
          limits=(0, None)),
    Panel("Training", "Forward and backward passes and optimizer updates of a step, over an hour.",
          by_steps("dapo_learner_train_seconds", _RUN), unit="s", limits=(0, None)),
    Panel("Waiting", "For a batch, over an hour.", by_steps("dapo_learner_wait_seconds", _RUN), unit="s", limits=(0, None)),
    Panel("Tokens and responses", "In the loss, a second.",
          {"{{worker}} tokens": f"rate(dapo_learner_tokens_total{_RUN}[$__rate_interval])",
           "{{worker}} responses": f"rate(dapo_learner_responses_total{_RUN}[$__rate_interval])"}, logarithmic=True),
    Panel("Updates", "A second; left out where the gradient was not finite.",
          {"{{worker}}": f"rate(dapo_learner_updates_total{_RUN}[$__rate_interval])",
           "{{worker}} left out": f"rate(dapo_learner_skipped_updates_total{_RUN}[$__rate_interval])"}, limits=(0, None)),
    Panel("Lost responses", "Of batches, that could not be read: Redis dropped them (its memory), or it was emptied.",
          {"{{worker}}": f"increase(dapo_learner_lost_responses_total{_RUN}[$__range])"}, kind="number", warn=1),
    Panel("Steps trained", "As rank 0 counts them.", {"{{worker}}": f"dapo_learner_step{_RUN}"}),
))  # fmt: skip

WEIGHTS = Dashboard(
    "dapo-weights",
    "dapo / Weights and checkpoints",
    "How new weights reach generators, and what a crash would cost.",
    (_SYNC, _CHECKPOINTS, _LEARNER),
    {"run": "label_values(dapo_run_info, run)"},
)
