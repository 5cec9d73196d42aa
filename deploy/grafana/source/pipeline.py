"""*Pipeline*: where a step's time goes, what waits for what, and what becomes of every group."""

from deploy.grafana.source.panels import Dashboard, Panel, Row
from deploy.grafana.source.run import of_run

_BOTTLENECK = Row("The bottleneck", (
    Panel("Who waits", "Share of time in which generators had nothing to generate and the learner no batch. The side "
          "that hardly waits is the bottleneck: learner idle, add generators (`dapo runs scale`); generators idle, take "
          "some away.", {"generators": of_run("generator_idle_ratio"), "learner": of_run("learner_idle_ratio")},
          unit="percentunit", limits=(0, 1), width=12),
    Panel("Generators", "What would keep up with the learner by the last steps (demand), what is wanted, what serves "
          "weights. Demand far above wanted: the learner waits; `resources.generator.autoscale` follows it by itself.",
          {"demand": of_run("generators_demand"), "wanted": of_run("generators_wanted"),
           "ready": of_run("generators_ready"), "measured": of_run("generators")}, limits=(0, None), width=12),
    Panel("A step's time", "Wall time of the step and what of it is waiting, training and publishing. Steps that grow "
          "with the responses are normal; with waiting, see the panels above.",
          {"step": of_run("step_seconds"), "waiting": of_run("learner_wait_seconds"),
           "training": of_run("train_seconds"), "weights": of_run("weight_sync_seconds")}, unit="s", limits=(0, None)),
    Panel("Generated tokens", "A second, over all generators.", {"tokens": of_run("generated_tokens_per_second")},
          limits=(0, None)),
    Panel("Time since the last step", "Or the last prompt of an evaluation. Many times the length of a step: the run stalls. `dapo runs show` names who waits "
          "for whom.", {"since": 'time() - dapo_run_progress_timestamp_seconds{run="$run"}'}, unit="s", limits=(0, None)),
))  # fmt: skip
_LEDGER = Row("The ledger", (
    Panel("Groups by state", "Each group is issued once and ends trained, filtered, surplus, stale, failed or evaluated. "
          "A state in the middle that only grows is where the pipeline is stuck.",
          {"{{state}}": of_run("groups")}, kind="stacked", width=12),
    Panel("Groups now", "The same, at this moment.", {"{{state}}": of_run("groups")}, kind="bars"),
    Panel("Dead letters", "Entries that nobody could process. Read, mend and requeue them: `dapo runs dead-letters`.",
          {"entries": of_run("dead_letters")}, kind="number", width=4, warn=1),
    Panel("Issued", "Groups issued a second.", {"groups/s": 'rate(dapo_run_groups_issued_total{run="$run"}[$__rate_interval])'},
          limits=(0, None)),
    Panel("Keep rate", "Groups that dynamic sampling keeps. What it drops was generated for nothing; at 0.3 a step costs "
          "3.3 times its tokens.", {"kept": of_run("keep_rate_ratio")}, unit="percentunit", limits=(0, 1)),
    Panel("Waiting entries", "Of the run's streams: prompts for a generator, responses for a verifier, groups for a batch. "
          "Completions that grow: more verifiers.", {"{{stream}}": of_run("stream_entries")}, limits=(0, None)),
    Panel("Batch", "Groups in the batch with both right and wrong responses, responses trained, and those lost. Lost ones "
          "point at Redis' memory.", {"effective prompts": of_run("effective_prompts"),
          "responses": of_run("trained_responses"), "lost": of_run("lost_responses")}, limits=(0, None)),
    Panel("Tokens", "Trained in the step, kept from cut requests, and generated since the run began.",
          {"trained": of_run("trained_tokens"), "salvaged": of_run("salvaged_tokens"),
           "generated in all": of_run("generated_tokens")}, logarithmic=True),
    Panel("Resting prompts", "Left out so far by algorithm.rest_uniform_after.", {"prompts": of_run("rested_prompts")},
          limits=(0, None)),
))  # fmt: skip
_STALENESS = Row("Staleness and mismatch", (
    Panel("Staleness", "Versions between issue and training of a group. At its bound (asynchrony.max_staleness) prompts "
          "wait for the learner.", {"mean": of_run("staleness_mean_versions"), "max": of_run("staleness_max_versions"), "bound": of_run("staleness_limit_versions")},
          limits=(0, None)),
    Panel("Tokens by version lag", "Sampled by the version that is trained, one before, or earlier.",
          {"0": of_run("token_lag_0_ratio"), "1": of_run("token_lag_1_ratio"), "more": of_run("token_lag_more_ratio")},
          kind="stacked", unit="percentunit", limits=(0, 1)),
    Panel("Mean lag of a token", "In versions.", {"lag": of_run("token_lag_mean_versions")}, limits=(0, None)),
    Panel("Sampler against learner", "KL and mean absolute difference of log-probabilities of the sampled tokens. Above "
          "0.1 nats of KL the engine computes something else than the learner: dtype, kernels, stale weights.",
          {"KL": of_run("mismatch_kl_nats"), "|Δ log p|": of_run("mismatch_abs_logprob_nats")}, logarithmic=True),
    Panel("Effective sample size", "Of the importance weights; 1 when sampler and learner agree.",
          {"share": of_run("effective_sample_size_ratio")}, unit="percentunit", limits=(0, 1)),
))  # fmt: skip

PIPELINE = Dashboard(
    "dapo-pipeline",
    "dapo / Pipeline",
    "Who waits for whom, what becomes of every group, how old the data are.",
    (_BOTTLENECK, _LEDGER, _STALENESS),
    {"run": "label_values(dapo_run_info, run)"},
)
