"""TRL's own GRPO loss and advantages against ours: an independent implementation agrees to rounding.

A real GRPOTrainer computes the loss; only its forward pass, which gives it log-probabilities and entropies, is replaced
by given tensors. Where TRL means something else than we do, a test says by which factor.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from datasets import Dataset  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

from dapo.algo.advantages import group_advantages  # noqa: E402
from dapo.spec import AlgorithmSpec  # noqa: E402
from services.learner.loss.policy import kl_k3, policy_loss  # noqa: E402
from services.learner.starters.toy import char_tokenizer  # noqa: E402
from tests.support.models import tiny_qwen2  # noqa: E402
from tests.unit.learner.loss.test_loss import count, make_inputs, objective, random_inputs  # noqa: E402

ROWS, WIDTH, GROUP = 8, 12, 4
BETA = 0.04
ALL = slice(0, ROWS)


class Case(NamedTuple):
    theirs: dict[str, Any]
    """Fields of TRL's GRPOConfig."""
    ours: dict[str, Any]
    """Fields of our Objective."""


DAPO = Case({"loss_type": "dapo", "epsilon_high": 0.28}, {"aggregation": "token-mean"})
GRPO = Case(
    {"loss_type": "grpo", "epsilon_high": 0.2, "beta": BETA, "use_bias_correction_kl": False},
    {"aggregation": "seq-mean-token-mean", "clip_high": 0.2, "kl_coefficient": BETA},
)
SPLITTABLE = {
    "dapo": DAPO,
    "dapo-dual-clip": Case({**DAPO.theirs, "delta": 1.5}, {**DAPO.ours, "dual_clip": 1.5}),
    "grpo": GRPO,
    "dr_grpo": Case(
        {"loss_type": "dr_grpo", "epsilon_high": 0.28},
        {"aggregation": "seq-mean-token-sum-norm", "length_norm": float(WIDTH)},
    ),
    "luspo": Case({"loss_type": "luspo", "epsilon_high": 0.28}, {"aggregation": "seq-mean-token-sum"}),
}
WHOLE = {
    "bnpo": Case({"loss_type": "bnpo", "epsilon_high": 0.28}, {"aggregation": "token-mean"}),
    "dapo-entropy": Case({**DAPO.theirs, "entropy_coef": 0.05}, {**DAPO.ours, "entropy_coefficient": 0.05}),
}
"""What TRL averages over the tokens of each micro-batch, so that it agrees where there is only one."""
EVERY_CUT = [(name, case, cut) for name, case in SPLITTABLE.items() for cut in (1, 2, 4)]
EVERY_CUT += [(name, case, 1) for name, case in WHOLE.items()]

Make = Callable[..., GRPOTrainer]


@pytest.fixture(scope="module")
def make_trainer(tmp_path_factory: pytest.TempPathFactory) -> Make:
    directory, model, tokenizer = tmp_path_factory.mktemp("trl"), tiny_qwen2(0).train(), char_tokenizer()

    def make(micro_batches: int = 1, rewards: Any = None, **config: Any) -> GRPOTrainer:
        # TRL would look for a reference model on the hub; the loss reads only its log-probabilities.
        beta = config.pop("beta", 0.0)
        arguments = GRPOConfig(
            output_dir=str(directory), report_to="none", use_cpu=True, bf16=False, num_generations=GROUP,
            per_device_train_batch_size=ROWS // micro_batches, gradient_accumulation_steps=micro_batches,
            max_completion_length=WIDTH, **config,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=model, reward_funcs=lambda **_: rewards, args=arguments, processing_class=tokenizer,
            train_dataset=Dataset.from_list([{"prompt": "abc>"}] * ROWS),
        )  # fmt: skip
        trainer.beta = beta
        trainer.current_gradient_accumulation_steps = micro_batches
        return trainer

    return make


class Batch(NamedTuple):
    current: Any
    old: Any
    reference: Any
    advantages: Any
    mask: Any


def make_batch(seed: int, empty: int = 0) -> Batch:
    """The last `empty` responses have no token in the loss."""
    batch = Batch(*random_inputs(ROWS, WIDTH, seed))
    batch.mask[:, 0] = True
    batch.mask[ROWS - empty :] = False
    return batch


def entropy(logprobs: Any) -> Any:
    """Any function of the policy, so that its gradient counts."""
    return -logprobs * logprobs.exp()


def trl_loss(trainer: GRPOTrainer, batch: Batch, current: Any, rows: slice = ALL, **inputs: Any) -> Any:
    """TRL's loss of one micro-batch of a generation batch."""
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (current[rows], entropy(current[rows]), None)
    mask = batch.mask[rows].long()
    given = {
        "prompt_ids": torch.zeros(len(mask), 1, dtype=torch.long),
        "prompt_mask": torch.ones(len(mask), 1, dtype=torch.long),
        "completion_ids": torch.zeros_like(mask),
        "completion_mask": mask,
        "advantages": batch.advantages[rows, 0],
        "old_per_token_logps": batch.old[rows],
        "ref_per_token_logps": batch.reference[rows],
        "num_items_in_batch": batch.mask.sum(),
    }
    return trainer._compute_loss(trainer.model, {**given, **inputs})


def our_loss(batch: Batch, current: Any, ours: dict[str, Any], rows: slice = ALL, **inputs: Any) -> Any:
    """Our loss of `rows` as one mini-batch."""
    everything = make_inputs(
        current[rows], batch.old[rows], batch.advantages[rows], batch.mask[rows],
        reference=batch.reference[rows], entropy=entropy(current[rows]), **inputs,
    )  # fmt: skip
    return policy_loss(everything, objective(**ours), count(batch.mask[rows]))


def check_equal(batch: Batch, theirs: Callable[[Any], Any], ours: Callable[[Any], Any]) -> None:
    """Both give one value and one gradient, as functions of the current log-probabilities."""
    current = batch.current.clone().requires_grad_()
    found, wanted = theirs(current), ours(current)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6, abs=1e-9)
    gradients = [torch.autograd.grad(loss, current)[0] for loss in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("case", "micro_batches"),
    [pytest.param(case, cut, id=f"{name}-{cut}") for name, case, cut in EVERY_CUT],
)
@pytest.mark.parametrize("seed", range(3))
def test_oracle_trl_losses_and_gradients_are_ours(
    make_trainer: Make, case: Case, micro_batches: int, seed: int
) -> None:
    trainer, batch = make_trainer(micro_batches, **case.theirs), make_batch(seed)
    cuts = [slice(start, start + ROWS // micro_batches) for start in range(0, ROWS, ROWS // micro_batches)]
    check_equal(
        batch,
        lambda current: sum(trl_loss(trainer, batch, current, rows) for rows in cuts),
        lambda current: our_loss(batch, current, case.ours),
    )


def test_oracle_trl_cases_differ_from_each_other() -> None:
    """Each switch above bites on these batches."""
    batch = make_batch(0)
    cases = [*SPLITTABLE.values(), WHOLE["dapo-entropy"]]
    losses = {round(float(our_loss(batch, batch.current, case.ours)), 6) for case in cases}
    assert len(losses) == len(cases)


def test_oracle_trl_importance_weights_are_ours(make_trainer: Make) -> None:
    """TRL's loss takes π_old/μ as given, truncated; it weighs the clipped term and not the KL."""
    trainer, batch = make_trainer(**GRPO.theirs), make_batch(0)
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
    behaviour = batch.old + torch.linspace(-1.5, 1.5, WIDTH, dtype=batch.old.dtype)
    weights = (batch.old - behaviour).exp().clamp(max=2.0)
    check_equal(
        batch,
        lambda current: trl_loss(trainer, batch, current, importance_sampling_ratio=weights),
        lambda current: our_loss(batch, current, {**GRPO.ours, "importance_cap": 2.0}, behaviour=behaviour),
    )


def test_oracle_trl_weighs_the_kl_by_the_ratio_unless_told_not_to(make_trainer: Make) -> None:
    """TRL's default since DeepSeek-V3.2 (arXiv 2512.02556); GRPO's own KL term, and ours, has no such weight."""
    trainer, batch = make_trainer(**{**GRPO.theirs, "use_bias_correction_kl": True}), make_batch(0)

    def with_weighted_kl(current: Any) -> Any:
        weighted = kl_k3(batch.reference - current) * (current - batch.old).exp() * batch.mask
        kl = (weighted.sum(dim=1) / batch.mask.sum(dim=1)).mean()
        return our_loss(batch, current, {**GRPO.ours, "kl_coefficient": 0.0}) + BETA * kl

    check_equal(batch, lambda current: trl_loss(trainer, batch, current), with_weighted_kl)


def test_oracle_trl_counts_masked_responses_as_sequences_and_we_do_not(make_trainer: Make) -> None:
    """Overlong filtering: the token mean is the same; TRL's mean over responses divides by the filtered ones too."""
    batch = make_batch(0, empty=2)
    token_level, sample_level = make_trainer(**DAPO.theirs), make_trainer(**GRPO.theirs)
    check_equal(
        batch,
        lambda current: trl_loss(token_level, batch, current),
        lambda current: our_loss(batch, current, DAPO.ours),
    )
    check_equal(
        batch,
        lambda current: trl_loss(sample_level, batch, current) * ROWS / (ROWS - 2),
        lambda current: our_loss(batch, current, GRPO.ours),
    )


def test_oracle_trl_divides_an_update_by_the_mean_tokens_of_all_updates(make_trainer: Make) -> None:
    """With several updates a batch TRL weighs every token of the batch alike; to us every update is a mean."""
    trainer, batch = make_trainer(steps_per_generation=2, **DAPO.theirs), make_batch(0)
    mean_tokens = int(batch.mask.sum()) / 2
    for rows in (slice(0, ROWS // 2), slice(ROWS // 2, ROWS)):
        factor = int(batch.mask[rows].sum()) / mean_tokens
        assert factor != 1
        check_equal(
            batch,
            lambda current, rows=rows: trl_loss(trainer, batch, current, rows),
            lambda current, rows=rows, factor=factor: factor * our_loss(batch, current, DAPO.ours, rows),
        )


@pytest.mark.parametrize(("scale_rewards", "std"), [("group", True), ("none", False)])
def test_oracle_trl_advantages_are_ours_with_its_ddof_and_epsilon(
    make_trainer: Make, scale_rewards: str, std: bool
) -> None:
    """TRL: n − 1 and + 1e-4. Its rewards are float32."""
    groups = [[1.0, -1.0, -1.0, -1.0], [-1.5, 0.25, -1.0, 1.0]]
    spec = AlgorithmSpec(advantage_std=std, advantage_std_ddof=1, advantage_epsilon=1e-4)
    trainer = make_trainer(rewards=[reward for group in groups for reward in group], scale_rewards=scale_rewards)
    found = trainer._generate_and_score_completions([{"prompt": "abc>"}] * ROWS)["advantages"]
    wanted = [advantage for group in groups for advantage in group_advantages(group, spec)]
    assert found.tolist() == pytest.approx(wanted, rel=1e-6)
