"""*Run*: does the policy learn? The dynamics that the DAPO paper plots (arXiv 2503.14476, figures 2 to 7)."""

from deploy.grafana.source.panels import Dashboard, Panel, Row


def of_run(name: str, labels: str = "") -> str:
    return f'dapo_run_{name}{{run="$run"{labels}}}'


_LEARNS = Row("Does it learn?", (
    Panel("Step", "Finished steps. Standing still for longer than a step takes: see *Pipeline*, and `dapo runs show`.",
          {"done": of_run("step"), "planned": of_run("steps_planned"),
           "{{set}} evaluated": of_run("evaluation_step")}, kind="number", width=4, height=6),
    Panel("Policy version", "Weights that the newest step produced.", {"version": of_run("policy_version")},
          kind="number", width=4, height=6),
    Panel("Alerts", "Alerts among the run's events since this service leads it, notices left out. Read them with "
          "`dapo runs show`.",
          {"{{severity}}": 'sum by (severity) (dapo_run_alerts_total{run="$run",severity!="notice"}) or vector(0)'},
          kind="number", width=4, height=6, warn=1),
    Panel("Evaluation (avg@k)", "Mean accuracy over k responses to each prompt of an evaluation set, at its newest "
          "evaluation. This, not the accuracy of training prompts, is what a run is judged by.",
          {"{{set}}": of_run("evaluation_avg_at_k_ratio")}, unit="percentunit", limits=(0, 1), width=12, height=6),
    Panel("Accuracy", "Correct responses among all graded for the step, and in the batch that was trained on. The first "
          "should rise; the second stays near one half, since dynamic sampling drops what is all right or all wrong.",
          {"graded": of_run("accuracy_mean_ratio"), "batch": of_run("batch_accuracy_mean_ratio")},
          unit="percentunit", limits=(0, 1)),
    Panel("Reward", "Mean shaped reward, the same without the length penalty, and the penalty. A reward that rises "
          "while accuracy does not is the length penalty, or a grader that is gamed: read samples.",
          {"shaped": of_run("reward_mean"), "accuracy": of_run("accuracy_reward_mean"),
           "length penalty": of_run("overlong_penalty_mean_reward")}),
    Panel("Response length", "Tokens of a response in the mean: of all graded, and of those trained on with their "
          "longest. Sudden growth with falling accuracy is degeneration; a fall to a few tokens a collapse.",
          {"graded": of_run("response_length_mean_tokens"), "trained": of_run("trained_response_length_mean_tokens"),
           "longest trained": of_run("trained_response_length_max_tokens")}),
    Panel("Entropy", "Of the policy's next token, in nats. Falling to zero: it explores no more (raise "
          "algorithm.clip_high); rising without bound: it degenerates (lower the learning rate).",
          {"entropy": of_run("entropy_nats")}),
    Panel("Probability of sampled tokens", "DAPO, figure 7d; near 1 with low entropy says the same as the panel beside "
          "it.", {"mean": of_run("probability_mean_ratio")}, unit="percentunit", limits=(0, 1)),
    Panel("Uniform groups", "Groups whose responses are all right or all wrong: they teach nothing and are dropped. "
          "All right grows: harder prompts are due; all wrong: easier ones, or a grader that refuses everything.",
          {"all right": of_run("all_correct_ratio"), "all wrong": of_run("all_wrong_ratio")},
          unit="percentunit", limits=(0, 1), kind="stacked"),
))  # fmt: skip
_UPDATE = Row("Updates", (
    Panel("Loss", "Policy loss, mean over the step's updates. Its level says little; jumps do.",
          {"policy": of_run("loss"), "value (gae)": of_run("value_loss")}),
    Panel("Gradient norm", "Before clipping. Spikes that grow announce divergence.",
          {"policy": of_run("grad_norm"), "value (gae)": of_run("value_grad_norm")}, logarithmic=True),
    Panel("Learning rate", "Of the step's last update.", {"lr": of_run("lr")}),
    Panel("Clipped tokens", "Share of tokens whose ratio was clipped from below, from above and by the dual clip. Above "
          "a few per cent the policy moves further in a step than the data allow: fewer updates or a lower rate.",
          {"below": of_run("clip_fraction_low_ratio"), "above": of_run("clip_fraction_high_ratio"),
           "dual clip": of_run("dual_clip_fraction_ratio")}, unit="percentunit"),
    Panel("Probability of tokens clipped from above", "DAPO, figure 3a: what clip-higher is for. Low: rare tokens are "
          "held back.", {"mean": of_run("clipped_high_probability_mean_ratio"),
                         "max": of_run("clipped_high_probability_max_ratio")}, unit="percentunit", limits=(0, 1)),
    Panel("Ratio π_θ / π_old", "1 % and 99 % of the response tokens have less. Far from 1: stale data, or a sampler "
          "that disagrees with the learner.", {"1 %": of_run("ratio_p01"), "99 %": of_run("ratio_p99")}),
    Panel("Updates", "Optimizer updates of the step, and those left out because their gradient was not finite. A few of "
          "the latter are harmless; many want a lower rate or bf16.",
          {"applied": of_run("updates"), "left out": of_run("skipped_updates")}),
    Panel("Gradient noise scale", "Responses in a mini-batch whose gradient is half noise (arXiv 1812.06162). A batch far "
          "below it wastes steps, far above it wastes responses.",
          {"responses": of_run("gradient_noise_scale_responses")}, logarithmic=True),
    Panel("KL to the reference", "k3, where a reference model is loaded. DAPO has none.",
          {"KL": of_run("kl_reference_nats")}),
    Panel("Explained variance", "Of the value network (gae). Near 1 is good; below 0 it is worse than the mean.",
          {"explained": of_run("explained_variance_ratio")}, unit="percentunit"),
    Panel("LoRA's update that survives", "What is left of the update in merged, rounded weights. Low: serve the adapter "
          "apart or use a wider dtype.", {"surviving": of_run("lora_surviving_ratio")}, unit="percentunit"),
))  # fmt: skip
_TEXTS = Row("Responses", (
    Panel("Cut, unclosed, penalised", "Responses cut at the token limit; ended within their thinking; correct and yet "
          "with a length penalty. Many cut: raise the token limit or shape earlier.",
          {"cut": of_run("truncated_ratio"), "unclosed thinking": of_run("unclosed_thinking_ratio"),
           "correct, penalised": of_run("correct_penalised_ratio")}, unit="percentunit", limits=(0, None)),
    Panel("Repetition and reflection", "Word 4-grams that came before in their response; responses in which a "
          "reflection pattern is found. Repetition that rises is the first sign of degeneration.",
          {"repetition": of_run("repetition_rate_ratio"), "reflection": of_run("reflection_ratio")},
          unit="percentunit", limits=(0, None)),
    Panel("Variety in a group", "Different texts and different answers in a group. One answer only: nothing to learn; "
          "see entropy.", {"texts": of_run("distinct_responses_mean"), "answers": of_run("distinct_answers_mean")},
          limits=(0, None)),
))  # fmt: skip

RUN = Dashboard(
    "dapo-run",
    "dapo / Run",
    "Does the policy learn? Accuracy, length, entropy, clipping and what the responses look like.",
    (_LEARNS, _UPDATE, _TEXTS),
    {"run": "label_values(dapo_run_info, run)"},
)
