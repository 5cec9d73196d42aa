"""PPO's step through the real engines, against plain PyTorch, and under every cut of the work."""

import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")

from tests.support.learner.kit import RANK, make_spec, model_directory, run_ranks  # noqa: E402

PPO = {"preset": "ppo", "gae_lambda": 0.9, "kl_coefficient": 0.05, "kl_placement": "reward"}
CUTS = [(0, 10_000), (0, 40), (2, 40), (3, 40)]
"""ZeRO stage and micro-batch budget in tokens."""
BATCHES = 2
EPOCHS = 2
VALUE_RATE = 2e-3


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory(tmp_path_factory.mktemp("toy"))


def ppo_spec(model_dir: Path, *, stage: int = 0, budget: int = 10_000, **changes: Any) -> dict[str, Any]:
    spec = make_spec(model_dir, stage=stage, budget=budget, **{**PPO, **changes})
    spec["training"]["update_epochs"] = EPOCHS
    spec["value"] = {"learning_rate": VALUE_RATE}
    return spec


class PlainPPO:
    """The same steps without DeepSpeed, micro-batches or helpers, one sequence at a time."""

    def __init__(self, model_dir: Path) -> None:
        from transformers import AutoModelForCausalLM

        def load() -> Any:
            return AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)

        self.policy, self.reference, self.backbone = load(), load(), load().model
        self.head = torch.nn.Linear(self.policy.config.hidden_size, 1)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)
        self.critic = torch.nn.ModuleList([self.backbone, self.head])
        self.optimizers = [self.adamw(self.policy), self.adamw(self.critic)]
        self.norms: list[float] = []
        self.value_norms: list[float] = []

    def adamw(self, model: Any) -> Any:
        groups = [
            {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)

    def logprobs(self, model: Any, sample: Any) -> Any:
        ids = torch.from_numpy(sample.ids.astype("int64"))
        every = model(ids[None]).logits[0].log_softmax(-1)
        return every[sample.prompt_tokens - 1 : -1].gather(1, ids[sample.prompt_tokens :, None])[:, 0]

    def values(self, sample: Any) -> Any:
        ids = torch.from_numpy(sample.ids.astype("int64"))
        hidden = self.backbone(ids[None]).last_hidden_state[0]
        return self.head(hidden[sample.prompt_tokens - 1 : -1])[:, 0]

    @torch.no_grad()
    def advantages(self, sample: Any) -> tuple[Any, Any, Any]:
        """Before whitening: the direct double sum over later errors, γ = 1."""
        old = torch.from_numpy(sample.behaviour)
        rewards = -0.05 * (old - self.logprobs(self.reference, sample))
        rewards[-1] += sample.reward
        values = self.values(sample)
        after = torch.cat([values[1:], torch.zeros(1)])
        errors = rewards + after - values
        count = len(errors)
        sums = [sum(0.9 ** (later - t) * errors[later] for later in range(t, count)) for t in range(count)]
        return torch.stack(sums), torch.stack(sums) + values, values

    def train(self, number: int, samples: list[Any]) -> None:
        from services.learner.step.minibatch import split_updates

        factor = min(1.0, (number + 1) / 2)
        for optimizer, rate in zip(self.optimizers, (1e-3, VALUE_RATE), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
        estimates = [self.advantages(sample) for sample in samples]
        everything = torch.cat([advantages for advantages, _, _ in estimates]).double()
        mean, deviation = everything.mean(), everything.std(correction=0)
        for epoch in range(EPOCHS):
            for indices in split_updates(len(samples), 2, seed=0, batch=number, epoch=epoch):
                tokens = sum(samples[i].response_tokens for i in indices)
                policy_loss = value_loss = torch.zeros(())
                for i in indices:
                    advantages, returns, old_values = estimates[i]
                    advantages = ((advantages - mean) / (deviation + 1e-8)).float()
                    ratio = (self.logprobs(self.policy, samples[i]) - torch.from_numpy(samples[i].behaviour)).exp()
                    clipped = ratio.clamp(0.8, 1.2)
                    policy_loss = policy_loss - torch.minimum(ratio * advantages, clipped * advantages).sum() / tokens
                    values = self.values(samples[i])
                    near = old_values + (values - old_values).clamp(-0.2, 0.2)
                    worse = torch.maximum((values - returns) ** 2, (near - returns) ** 2)
                    value_loss = value_loss + worse.sum() / tokens / 2
                self.norms.append(self.step(self.policy, self.optimizers[0], policy_loss))
                self.value_norms.append(self.step(self.critic, self.optimizers[1], value_loss))

    def step(self, model: Any, optimizer: Any, loss: Any) -> float:
        optimizer.zero_grad()
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        optimizer.step()
        return norm


@pytest.fixture(scope="module")
def wanted(model_dir: Path) -> PlainPPO:
    sys.path.insert(0, str(RANK.parent))
    from rank import make_samples

    plain = PlainPPO(model_dir)
    for number in range(BATCHES):
        plain.train(number, make_samples(number, 24, plain.policy.config.vocab_size))
    return plain


@pytest.fixture(scope="module")
def found(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """By number of ranks: CUTS, then a lost sample, then a warm-up of the value network."""
    cases = [
        {"spec": ppo_spec(model_dir, stage=stage, budget=budget), "batches": BATCHES, "samples": 24}
        for stage, budget in CUTS
    ]
    cases.append({"spec": ppo_spec(model_dir, stage=3), "batches": 1, "samples": 4, "lost": [2]})
    warming = ppo_spec(model_dir)
    warming["value"]["warmup_steps"] = 1
    cases.append({"spec": warming, "batches": 2, "samples": 24})
    return {ranks: run_ranks(tmp_path_factory.mktemp(f"ranks{ranks}"), cases, ranks) for ranks in (1, 2)}


def check_network(found: dict[str, list[float]], network: Any) -> None:
    for name, parameter in network.named_parameters():
        flat = parameter.detach().double().flatten()
        assert found[name][:-2][:16] == pytest.approx(flat[:16].tolist(), abs=1e-5), name
        assert found[name][-1] == pytest.approx(float(flat.norm()), rel=1e-5, abs=1e-5), name


@pytest.mark.parametrize(("cut", "ranks"), product(range(len(CUTS)), (1, 2)))
def test_invariance_of_a_ppo_step_under_every_cut_of_the_work(
    found: dict[int, list[dict[str, Any]]], wanted: PlainPPO, cut: int, ranks: int
) -> None:
    result = found[ranks][cut]
    norms = torch.tensor(wanted.norms).view(BATCHES, -1).mean(1).tolist()
    value_norms = torch.tensor(wanted.value_norms).view(BATCHES, -1).mean(1).tolist()
    assert [m["grad_norm"] for m in result["metrics"]] == pytest.approx(norms, rel=2e-5)
    assert [m["value_grad_norm"] for m in result["metrics"]] == pytest.approx(value_norms, rel=2e-5)
    assert [m["updates"] for m in result["metrics"]] == [2 * EPOCHS] * BATCHES
    check_network(result["parameters"], wanted.policy)
    check_network(result["value"], wanted.backbone)
    check_network({name: result["value"][f"head.{name}"] for name in ("weight", "bias")}, wanted.head)


def test_metrics_of_a_ppo_step_do_not_depend_on_the_ranks(found: dict[int, list[dict[str, Any]]]) -> None:
    names = ("loss", "value_loss", "explained_variance", "kl_reference", "entropy", "ratio_p01", "ratio_p99")
    for one, two in zip(found[1][1]["metrics"], found[2][1]["metrics"], strict=True):
        for name in names:
            assert one[name] == pytest.approx(two[name], rel=1e-4, abs=1e-5), name
    # A network that starts at 0 explains nothing, and something after a step.
    first, second = found[1][1]["metrics"]
    assert first["explained_variance"] == pytest.approx(0, abs=1e-6)
    assert second["value_loss"] != first["value_loss"]


def test_a_lost_sample_is_lost_in_every_epoch(found: dict[int, list[dict[str, Any]]]) -> None:
    one, two = (found[ranks][len(CUTS)]["metrics"][0] for ranks in (1, 2))
    assert one["trained_responses"] == two["trained_responses"] == 3
    assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=1e-5)
    assert one["value_grad_norm"] == pytest.approx(two["value_grad_norm"], rel=1e-5)


def test_the_policy_rests_while_the_value_network_warms_up(found: dict[int, list[dict[str, Any]]]) -> None:
    first, second = found[1][-1]["metrics"]
    assert (first["updates"], first["grad_norm"]) == (0, 0)
    assert first["value_grad_norm"] > 0
    assert second["updates"] == 2 * EPOCHS


@pytest.mark.parametrize(("stage", "ranks"), [pytest.param(0, 1, marks=pytest.mark.slow), (3, 2)])
def test_resume_is_exact_with_value_network_and_refreshed_reference(
    tmp_path: Path, model_dir: Path, stage: int, ranks: int
) -> None:
    spec = ppo_spec(model_dir, stage=stage, reference_refresh_steps=1)
    case = {"spec": spec, "batches": 3, "samples": 12, "checkpoint_after": 2}
    whole, resumed = run_ranks(tmp_path, [case, {**case, "resume": True}], ranks)
    assert [len(result["metrics"]) for result in (whole, resumed)] == [3, 1]
    for name in ("parameters", "value"):
        assert resumed[name] == whole[name]
    for name in ("grad_norm", "value_grad_norm", "kl_reference", "explained_variance"):
        assert resumed["metrics"][-1][name] == whole["metrics"][-1][name], name
