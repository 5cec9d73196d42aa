"""Any subset of the techniques trains: one step of the real learner for every subset of its switches."""

from collections.abc import Iterator
from itertools import combinations
from math import isfinite
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")

from tests.support.learner import kit  # noqa: E402

Subset = frozenset[str]

TOGGLES: dict[str, dict[str, Any]] = {
    # Wider than the paper's 0.28, so that some of the few tokens lie between the bounds.
    "clip_higher": {"clip_high": 0.5},
    "dual_clip": {"dual_clip": 1.2},
    "sample_level": {"loss_aggregation": "seq-mean-token-mean"},
    "kl_in_objective": {"kl_coefficient": 0.1},
    "measure_kl": {"measure_kl": True},
    "entropy_bonus": {"entropy_coefficient": 0.1},
    "decoupled": {"proximal_policy": "decoupled"},
    "gae": {"advantage_estimator": "gae", "gae_lambda": 0.9},
    "two_epochs": {},
    "masked_weights": {"importance_mode": "mask"},
    "whitening": {"advantage_whitening": True},
    "kl_in_reward": {"kl_placement": "reward"},
}
"""What each sets in the algorithm section; two_epochs is a field of the training section."""
OFF = {"clip_high": 0.2}
SAMPLES = 24
NEEDS = {
    "masked_weights": {"decoupled"},
    "whitening": {"gae"},
    "kl_in_reward": {"gae", "kl_in_objective"},
}
"""Toggles that the spec refuses without others."""
FREE = [name for name in TOGGLES if name not in NEEDS]


def every_subset() -> Iterator[Subset]:
    """All subsets of the free toggles; and each of the others beside each single toggle, with it and without."""
    for size in range(len(FREE) + 1):
        yield from map(frozenset, combinations(FREE, size))
    for name, needed in NEEDS.items():
        for other in (None, *TOGGLES):
            beside = needed | ({other} if other else set()) | NEEDS.get(other or "", set())
            yield from (frozenset(beside - {name}), frozenset(beside | {name}))


SUBSETS = list(dict.fromkeys(every_subset()))


def make_spec(model_dir: Path, subset: Subset) -> dict[str, Any]:
    spec = kit.make_spec(model_dir, **OFF)
    # So fast that the second update is clipped, even where the first starts from a ratio of 1.
    spec["optimizer"] = {"learning_rate": 0.01, "warmup_steps": 0}
    for name in subset:
        spec["algorithm"].update(TOGGLES[name])
    spec["training"]["update_epochs"] = 2 if "two_epochs" in subset else 1
    return spec


def save_model(directory: Path) -> Path:
    """Three thousand parameters: a case takes no longer than the start of its engine."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=14, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[Subset, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("toggles")
    model_dir = save_model(folder / "model")
    cases = [{"spec": make_spec(model_dir, subset), "batches": 1, "samples": SAMPLES} for subset in SUBSETS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kit, "RANK", kit.RANK.with_name("toggles_rank.py"))
        return dict(zip(SUBSETS, kit.run_ranks(folder, cases, ranks=1), strict=True))


def test_every_subset_trains_and_reports_what_it_promises(found: dict[Subset, dict[str, Any]]) -> None:
    for subset, result in found.items():
        (metrics,) = result["metrics"]
        named = f"with {', '.join(sorted(subset)) or 'every toggle off'}: {metrics}"
        assert all(map(isfinite, metrics.values())), named
        assert metrics["grad_norm"] > 0, named
        assert metrics["updates"] == (4 if "two_epochs" in subset else 2), named
        assert metrics["entropy"] > 0, named
        assert metrics["mismatch_kl"] > 0, named
        assert ("kl_reference" in metrics) == bool(subset & {"kl_in_objective", "measure_kl"}), named
        for name in ("value_loss", "explained_variance", "value_grad_norm"):
            assert (name in metrics) == ("gae" in subset), named
        assert bool(result["value"]) == ("gae" in subset), named


def pairs(found: dict[Subset, dict[str, Any]], toggle: str) -> Iterator[tuple[Subset, dict[str, Any], dict[str, Any]]]:
    """Each subset without the toggle, what it gave, and what it gave with the toggle."""
    for subset, result in found.items():
        if toggle not in subset and subset | {toggle} in found:
            yield subset, result, found[subset | {toggle}]


@pytest.mark.parametrize("toggle", [name for name in TOGGLES if name != "measure_kl"])
def test_every_toggle_changes_what_is_learned_beside_any_others(
    found: dict[Subset, dict[str, Any]], toggle: str
) -> None:
    compared = list(pairs(found, toggle))
    same = [sorted(subset) for subset, without, together in compared if without["parameters"] == together["parameters"]]
    assert compared
    assert not same


def test_measuring_the_kl_changes_nothing_else(found: dict[Subset, dict[str, Any]]) -> None:
    for subset, without, together in pairs(found, "measure_kl"):
        assert together["parameters"] == without["parameters"], sorted(subset)
        assert together["value"] == without["value"], sorted(subset)
        expected = {**without["metrics"][0], "kl_reference": together["metrics"][0]["kl_reference"]}
        differing = {name for name, value in together["metrics"][0].items() if value != expected[name]}
        assert differing <= {"train_s"}, sorted(subset)
