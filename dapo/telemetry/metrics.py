"""Every metric of metrics.jsonl, declared once: name, unit, meaning and who measures it."""

from dataclasses import dataclass
from typing import Literal

Source = Literal["orchestrator", "learner"]


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    unit: str
    meaning: str
    source: Source


METRICS: tuple[Metric, ...] = (
    Metric("step", "step", "Finished rollout steps (train batches); the first is 1", "orchestrator"),
    Metric("time_s", "s", "Since the run's services were launched", "orchestrator"),
    Metric("step_s", "s", "Wall time of the step: waiting for its batch, training, publishing", "learner"),
    Metric("policy_version", "version", "Weights step that this step produced", "learner"),
    Metric("accuracy_mean", "share", "Correct responses among all graded for the step: its batch's groups, and those "
           "filtered or left over that were issued before the youngest of them", "orchestrator"),
    Metric("reward_mean", "reward", "Mean shaped reward over the same responses", "orchestrator"),
    Metric("accuracy_reward_mean", "reward", "The same without the length penalty", "orchestrator"),
    Metric("overlong_penalty_mean", "reward", "Mean length penalty (soft overlong punishment) over the same responses, "
           "in [−1, 0]", "orchestrator"),
    Metric("correct_penalised_share", "share", "Responses that are correct and have a length penalty, among the same",
           "orchestrator"),
    Metric("response_length_mean", "tokens", "Mean response length over the same responses", "orchestrator"),
    Metric("truncated_share", "share", "Responses cut at the token limit, among the same", "orchestrator"),
    Metric("salvaged_tokens", "tokens", "Tokens of the same responses that were kept when an earlier request for them "
           "was cut short: an engine lost, a generator stopped, a weight update with weight_sync.in_flight = abort",
           "orchestrator"),
    Metric("unclosed_thinking_share", "share", "Responses that end within their thinking and so have no answer, among "
           "the same", "orchestrator"),
    Metric("grader_failed_share", "share", "Responses whose grading failed (timeout, crash, unavailable, bad_reply, "
           "bad_gold, unknown_grader) and that count as wrong, among the same", "orchestrator"),
    Metric("repetition_rate", "share", "Word 4-grams that occurred before in their response, mean over the same "
           "responses", "orchestrator"),
    Metric("reflection_share", "share", "Responses in which one of metrics.reflection_patterns is found, among the "
           "same", "orchestrator"),
    Metric("distinct_responses_mean", "responses", "Different texts in a group, mean over the graded groups, from 1 "
           "to sampling.group_size", "orchestrator"),
    Metric("distinct_answers_mean", "answers", "Different extracted answers in a group (no answer is one of them), "
           "mean over the graded groups", "orchestrator"),
    Metric("batch_accuracy_mean", "share", "Correct responses in the batch that was trained on", "orchestrator"),
    Metric("effective_prompts", "prompts", "Groups of that batch with both correct and wrong responses: those in "
           "which accuracy gives a gradient", "orchestrator"),
    Metric("keep_rate", "share", "Groups kept by dynamic sampling among those graded for the step", "orchestrator"),
    Metric("rested_prompts", "prompts", "Prompts that epochs have left out so far because they rest "
           "(algorithm.rest_uniform_after); groups issued and these are all places of the data's order up to there",
           "orchestrator"),
    Metric("staleness_mean", "versions", "Version trained on minus version issued at, mean over the batch's groups",
           "orchestrator"),
    Metric("staleness_max", "versions", "The same, at most", "orchestrator"),
    Metric("token_lag_mean", "versions", "Version trained minus version that sampled the token, mean over the trained "
           "responses' tokens", "learner"),
    Metric("token_lag_0_share", "share", "Tokens sampled by the very version that is trained", "learner"),
    Metric("token_lag_1_share", "share", "Tokens sampled one version before", "learner"),
    Metric("token_lag_more_share", "share", "Tokens sampled two versions before or earlier", "learner"),
    Metric("generated_tokens_per_s", "tokens/s", "Response tokens that all generators finished", "orchestrator"),
    Metric("generated_tokens", "tokens", "The same, in total since the run began", "orchestrator"),
    Metric("generators", "generators", "Generators that served weights, those that only evaluate left out",
           "orchestrator"),
    Metric("generator_idle", "share", "Time in which a generator had nothing to generate, mean over generators",
           "orchestrator"),
    Metric("learner_idle", "share", "Share of the step in which the learner waited for its batch", "orchestrator"),
    Metric("learner_wait_s", "s", "Time in which the learner waited for its batch", "learner"),
    Metric("weight_sync_s", "s", "From the end of training until every ready generator served the new weights",
           "learner"),
    Metric("entropy", "nats", "Mean entropy of the policy's next-token distribution over response tokens", "learner"),
    Metric("lora_surviving_share", "share", "Of the LoRA update, what is left in the merged weights that generators "
           "get, rounded to model.dtype: 1 − Σ error² / Σ update²; none where the adapter is served apart", "learner"),
    Metric("mismatch_kl", "nats", "KL between the sampler's and the learner's probabilities of the sampled tokens, "
           "before the step's first update: of that update's tokens, of all with `decoupled`", "learner"),
    Metric("probability_mean", "share", "Mean probability that the policy gives the sampled tokens (DAPO, figure 7d)",
           "learner"),
    Metric("clip_fraction_low", "share", "Response tokens whose ratio was clipped from below", "learner"),
    Metric("clip_fraction_high", "share", "Response tokens whose ratio was clipped from above", "learner"),
    Metric("dual_clip_fraction", "share", "Response tokens whose gradient the dual clip took: A < 0 and a ratio above "
           "algorithm.dual_clip, where that is set", "learner"),
    Metric("clipped_high_probability_mean", "share", "Mean probability of the tokens clipped from above (DAPO, "
           "figure 3a)", "learner"),
    Metric("clipped_high_probability_max", "share", "The same, at most", "learner"),
    Metric("ratio_p01", "", "Ratio π_θ/π_old that 1 % of the response tokens do not exceed, within [0.05, 20]",
           "learner"),
    Metric("ratio_p99", "", "Ratio that 99 % do not exceed", "learner"),
    Metric("kl_reference", "nats", "KL (k3) of the policy to the reference model, where one is loaded", "learner"),
    Metric("value_loss", "", "Loss of the value network, mean over the step's updates (gae)", "learner"),
    Metric("value_grad_norm", "", "Its gradient norm before clipping, mean over its applied updates (gae)", "learner"),
    Metric("explained_variance", "share", "1 − Var(return − value) / Var(return) over response tokens, before the "
           "step's first update (gae)", "learner"),
    Metric("loss", "", "Policy loss, mean over the step's updates", "learner"),
    Metric("grad_norm", "", "Gradient norm before clipping, mean over the step's applied updates", "learner"),
    Metric("gradient_noise_scale", "responses", "Responses in a mini-batch whose gradient is half noise: tr(Σ) / |G|² "
           "(arXiv 1812.06162), seen by the gradients of the last hidden states; none where noise hides the signal",
           "learner"),
    Metric("lr", "", "Learning rate of the step's last update", "learner"),
    Metric("all_correct_share", "share", "Graded groups whose responses are all correct", "orchestrator"),
    Metric("all_wrong_share", "share", "Graded groups whose responses are all wrong", "orchestrator"),
    Metric("train_s", "s", "Forward and backward passes and optimizer updates of the step", "learner"),
    Metric("weight_pause_s", "s", "Longest pause of a generator for the new weights", "learner"),
    Metric("updates", "updates", "Optimizer updates of the step", "learner"),
    Metric("skipped_updates", "updates", "Updates left out because their gradient was not finite, of policy and value "
           "network together", "learner"),
    Metric("trained_responses", "responses", "Responses in the step's loss", "learner"),
    Metric("lost_responses", "responses", "Responses of the batch that could not be read from Redis, and so are not in "
           "the step's loss", "learner"),
    Metric("trained_tokens", "tokens", "Response tokens in the step's loss", "learner"),
    Metric("trained_response_length_mean", "tokens", "Mean length of the responses trained on", "learner"),
    Metric("trained_response_length_max", "tokens", "Longest of them", "learner"),
    Metric("mismatch_abs_logprob", "nats", "Mean absolute difference of the sampler's and the learner's "
           "log-probabilities", "learner"),
    Metric("effective_sample_size", "share", "Of the importance weights learner/sampler: 1 when both agree", "learner"),
)  # fmt: skip

BY_NAME: dict[str, Metric] = {metric.name: metric for metric in METRICS}
