"""LoRA: what is trained, what is served, and that serving changes nothing."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("deepspeed")

from contextlib import nullcontext  # noqa: E402
from types import SimpleNamespace  # noqa: E402

from dapo.spec.tree.training import LoraSpec  # noqa: E402
from services.learner.model.lora import add_lora  # noqa: E402
from services.learner.model.policy import PolicyModel  # noqa: E402
from services.learner.step.engine import parameter_groups  # noqa: E402
from services.learner.weights.buckets import WeightBuckets  # noqa: E402
from tests.support.models import ARCHITECTURES, tiny_model  # noqa: E402

IDS = torch.tensor([[1, 2, 3, 4, 5, 6]])
POSITIONS, TARGETS = torch.tensor([1, 2, 3]), torch.tensor([3, 4, 5])
LORA = LoraSpec(rank=3, alpha=6.0)


def make_policy(architecture: str = "qwen2", lora: LoraSpec = LORA, *, trained: bool = True) -> PolicyModel:
    causal = tiny_model(architecture, seed=0)
    add_lora(causal, lora, seed=0)
    if trained:
        with torch.no_grad():
            for name, parameter in causal.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1)
    return PolicyModel(causal, 1.0)


def buckets_of(policy: PolicyModel, *, adapter: bool = False, bucket_mib: int = 1) -> WeightBuckets:
    engine: Any = SimpleNamespace(
        module=policy, ranks=SimpleNamespace(leads=True), zero_stage=0, gathered=lambda _: nullcontext()
    )
    return WeightBuckets(engine, bucket_mib, adapter=adapter)


def logprobs(policy: PolicyModel) -> Any:
    return policy(IDS, POSITIONS, TARGETS)[0]


def test_adapters_change_nothing_until_they_are_trained_and_follow_the_seed() -> None:
    plain, policy = PolicyModel(tiny_model("qwen2", seed=0), 1.0), make_policy(trained=False)
    torch.testing.assert_close(logprobs(policy), logprobs(plain))
    again = make_policy(trained=False)
    for (name, one), other in zip(policy.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_served_weights_are_merged_under_plain_names(architecture: str) -> None:
    policy, plain = make_policy(architecture), tiny_model(architecture, seed=0)
    before = {name: parameter.clone() for name, parameter in policy.named_parameters()}
    served = policy.served_weights()
    assert list(served) == [name for name, _ in plain.named_parameters()]
    for name, parameter in plain.named_parameters():
        assert served[name].shape == tuple(parameter.shape), name
        assert served[name].value().shape == parameter.shape
        assert served[name].dtype == parameter.dtype
        assert served[name].bytes == parameter.numel() * 4

    plain.load_state_dict({name: weight.value() for name, weight in served.items()}, strict=False)
    torch.testing.assert_close(logprobs(PolicyModel(plain, 1.0)), logprobs(policy), rtol=1e-5, atol=1e-5)
    for name, parameter in policy.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_a_merged_weight_is_the_weight_plus_the_scaled_product() -> None:
    policy = make_policy()
    layer = policy.causal.model.layers[0].self_attn.q_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    wanted = layer.base_layer.weight + b @ a * (6.0 / 3)
    torch.testing.assert_close(policy.served_weights()["model.layers.0.self_attn.q_proj.weight"].value(), wanted)


def test_only_adapters_are_trained() -> None:
    policy = make_policy()
    logprobs(policy).sum().backward()
    with_gradient = {name for name, parameter in policy.named_parameters() if parameter.grad is not None}
    assert with_gradient == {name for name, _ in policy.named_parameters() if "lora_" in name}
    (group,) = parameter_groups(policy, 0.1)
    assert len(group["params"]) == len(with_gradient)


def test_adapters_get_their_gradient_under_gradient_checkpointing() -> None:
    policy, gradients = make_policy(), []
    for recompute in (False, True):
        if recompute:
            policy.causal.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        policy.train().zero_grad()
        logprobs(policy).sum().backward()
        gradients.append([p.grad.clone() for p in policy.parameters() if p.requires_grad])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)
        assert plain.abs().sum() > 0


def test_buckets_carry_the_merged_weights() -> None:
    policy = make_policy()
    buckets = buckets_of(policy)
    sent = torch.cat(list(buckets.gathered(torch.device("cpu"), wanted=True))).view(torch.float32)
    wanted = torch.cat([weight.value().flatten() for weight in policy.served_weights().values()])
    torch.testing.assert_close(sent, wanted)
    named = [tensor for bucket in buckets.specs() for tensor in bucket.tensors]
    assert [tensor.name for tensor in named] == list(policy.served_weights())
    assert {tensor.dtype for tensor in named} == {"float32"}


@pytest.mark.parametrize("names", ["q_proj, v_proj", "q_proj,v_proj"])
def test_named_layers_alone_are_adapted(names: str) -> None:
    policy = make_policy(lora=LoraSpec(rank=2, target_modules=names))
    adapted = {name.split(".")[-4] for name, p in policy.named_parameters() if p.requires_grad}
    assert adapted == {"q_proj", "v_proj"}


def test_a_name_that_no_layer_has_is_refused_beside_others_that_are_there() -> None:
    with pytest.raises(ValueError, match=r"no layer v_prj\. Its linear layers are down_proj, .*v_proj"):
        make_policy(lora=LoraSpec(rank=2, target_modules="q_proj,v_prj"))


@pytest.mark.parametrize("names", ["nothing_like_it", "lm_head", "embed_tokens"])
def test_layers_that_cannot_be_adapted_are_refused_by_field(names: str) -> None:
    with pytest.raises(ValueError, match=f"lora.target_modules {names}"):
        make_policy("qwen3", LoraSpec(rank=2, target_modules=names))


def test_without_a_rank_everything_is_trained() -> None:
    policy = make_policy(lora=LoraSpec())
    assert all(parameter.requires_grad for parameter in policy.parameters())
    served = policy.served_weights()
    assert [weight.parameters[0] for weight in served.values()] == list(policy.parameters())
    assert served["model.norm.weight"].value().data_ptr() == policy.causal.model.norm.weight.data_ptr()


def bfloat16_policy(scale: float) -> PolicyModel:
    """Weights of about 0.1, and an update of a few times `scale`."""
    causal = tiny_model("qwen2", seed=0).to(torch.bfloat16)
    add_lora(causal, LORA, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in causal.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=scale)
    return PolicyModel(causal, 1.0)


def test_what_survives_merging_is_measured() -> None:
    """By the definition, in float64: 1 − Σ error² / Σ update² over all weights that have an update."""
    shares = []
    for scale in (1e-6, 3e-4, 0.3):
        policy = bfloat16_policy(scale)
        buckets = buckets_of(policy)
        list(buckets.gathered(torch.device("cpu"), wanted=True))
        error = update = 0.0
        for layer in policy.causal.modules():
            if hasattr(layer, "base_layer"):
                delta = layer.get_delta_weight("default").detach().double()
                merged = (layer.base_layer.weight.float() + delta.float()).bfloat16().double()
                update += float(delta.square().sum())
                error += float((merged - layer.base_layer.weight.double() - delta).square().sum())
        assert buckets.rounding.surviving_share == pytest.approx(1 - error / update, abs=1e-4)
        shares.append(buckets.rounding.surviving_share)
    assert shares[0] < 0.05
    assert 0.05 < shares[1] < 0.9
    assert shares[2] > 0.99


def test_each_bucket_counts_once_however_often_and_wherever_it_is_made() -> None:
    policy = bfloat16_policy(3e-4)
    whole, twice, rest = (buckets_of(policy, bucket_mib=0) for _ in range(3))
    list(whole.gathered(torch.device("cpu"), wanted=True))
    positions = range(len(twice.specs()))
    for position in [*positions, *positions]:
        twice.make(position, torch.device("cpu"))
    rest.make(0, torch.device("cpu"))
    for buckets in (twice, rest):
        buckets.measure_rest()
        assert buckets.rounding == whole.rounding
        buckets.renew()
        buckets.measure_rest()
        assert buckets.rounding == whole.rounding


def test_nothing_is_lost_where_there_is_no_update_yet_and_where_float32_is_merged() -> None:
    untrained = buckets_of(make_policy(trained=False))
    trained = buckets_of(make_policy())
    for buckets in (untrained, trained):
        list(buckets.gathered(torch.device("cpu"), wanted=True))
        assert buckets.rounding.surviving_share == pytest.approx(1.0)


def test_an_adapter_is_sent_alone_and_as_it_is() -> None:
    policy = bfloat16_policy(1e-6)
    buckets = buckets_of(policy, adapter=True)
    sent = torch.cat(list(buckets.gathered(torch.device("cpu"), wanted=True))).view(torch.bfloat16)
    trained = {name: parameter for name, parameter in policy.causal.named_parameters() if parameter.requires_grad}
    assert torch.equal(sent, torch.cat([parameter.detach().flatten() for parameter in trained.values()]))
    named = [tensor.name for bucket in buckets.specs() for tensor in bucket.tensors]
    assert named == [name.replace(".default.", ".") for name in trained]
    assert "model.layers.0.self_attn.q_proj.lora_A.weight" in named
