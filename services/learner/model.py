"""The policy as the learner runs it: a causal language model that returns log-probabilities, never logits."""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from services.learner.logprobs import head_logprobs

CHECK_TOLERANCE = 1e-3


class PolicyModel(nn.Module):  # type: ignore[misc]
    """Wraps a Hugging Face causal model; `causal.` is the prefix of its parameters' names."""

    def __init__(self, causal: PreTrainedModel, temperature: float, *, entropy_gradient: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.temperature = temperature
        self.entropy_gradient = entropy_gradient

    def forward(self, ids: Tensor, positions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy [n] of `targets` [n], each predicted at a flat position [n] of `ids`.

        `ids` is [rows, width]. Rows are padded on the right and attention is causal, so padding needs no mask: nothing
        real looks at it.
        """
        hidden = self.causal.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return head_logprobs(
            self.causal.get_output_embeddings(),
            hidden.flatten(0, 1)[positions],
            targets,
            self.temperature,
            vocabulary=self.vocabulary,
            entropy_gradient=self.entropy_gradient,
        )

    @property
    def vocabulary(self) -> int:
        return int(self.causal.config.get_text_config().vocab_size)

    def served_names(self) -> dict[str, nn.Parameter]:
        """Parameters by their Hugging Face names; a tied output embedding appears once, as the input embedding."""
        return {name.removeprefix("causal."): parameter for name, parameter in self.named_parameters()}


@torch.no_grad()
def check_head(causal: PreTrainedModel) -> None:
    """Refuse models whose logits are more than head(backbone(ids)), such as those with soft-capped logits."""
    ids = torch.tensor([[1, 2]])
    wanted = causal(input_ids=ids).logits.float()
    found = causal.get_output_embeddings()(causal.base_model(input_ids=ids).last_hidden_state).float()
    if not torch.allclose(found, wanted, atol=CHECK_TOLERANCE, rtol=CHECK_TOLERANCE):
        raise ValueError(
            f"model.path {causal.name_or_path}: {type(causal).__name__} transforms its logits after the output "
            "embedding, which the learner's log-probabilities would miss; use a model without such a transform"
        )


def load_causal(path: str, dtype: str) -> PreTrainedModel:
    """The model in `path` on the CPU. Raises FileNotFoundError when a local path does not exist."""
    if path.startswith((".", "/", "~")) and not Path(path).expanduser().is_dir():
        raise FileNotFoundError(f"model.path {path}: no such directory; give a Hugging Face model directory")
    source = str(Path(path).expanduser())
    config = AutoConfig.from_pretrained(source)
    # The sampler has no dropout, so neither has the policy whose log-probabilities are compared with its own.
    for name in [name for name in config.to_dict() if name.endswith(("dropout", "pdrop"))]:
        setattr(config, name, 0.0)
    causal = AutoModelForCausalLM.from_pretrained(source, config=config, dtype=getattr(torch, dtype))
    check_head(causal)
    return causal
