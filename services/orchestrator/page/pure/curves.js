// Which curves are shown, in which order, and what they mean.

const curve = (title, unit, names, options = {}) => ({ title, unit, names, ...options });

export const CURVES = [
  curve("Accuracy", "share", { accuracy_mean: "training" }, { evaluations: true, lead: true }),
  curve("Reward", "", { reward_mean: "shaped", accuracy_reward_mean: "without length penalty" }),
  curve("Entropy", "nats", { entropy: "of the policy" }),
  curve("Response length", "tokens", { response_length_mean: "mean" }),
  curve("Groups kept", "share", { keep_rate: "kept", all_correct_share: "all right", all_wrong_share: "all wrong" }),
  curve("Staleness", "versions", { staleness_mean: "mean", staleness_max: "at most" }),
  curve("Generation", "tokens/s", { generated_tokens_per_s: "all generators" }),
  curve("Idle", "share", { generator_idle: "generators", learner_idle: "learner" }),
  curve("Gradient norm", "", { grad_norm: "before clipping" }),
  curve("Weights", "s", { weight_pause_s: "longest pause", weight_sync_s: "until all serve them" }),
  curve("A step", "s", { step_s: "whole", train_s: "training", learner_wait_s: "waiting" }),
];

/** Of all curves, and what the figures at the top of a run are made of. */
export const NAMES = [...new Set(CURVES.flatMap((one) => Object.keys(one.names))), "time_s"];

/** By set: its name and its points, as dapo/records/evaluations.py has them. */
export function evaluationPoints(rows) {
  const found = new Map();
  for (const row of rows) {
    if (!row.avg_at_k) continue;
    const name = `${row.set} avg@${row.samples}`;
    if (!found.has(name)) found.set(name, []);
    found.get(name).push({ step: row.step, ...row.avg_at_k });
  }
  return [...found].map(([name, points]) => ({ name, points }));
}
