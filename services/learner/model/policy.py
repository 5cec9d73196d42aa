"""The networks as the learner runs them: a policy that returns log-probabilities, never logits, and a value network."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import is_flash_attn_2_available

from dapo.algo.vocabulary import end_ids, tokenless_ids
from services.learner.model.logprobs import LogprobHead
from services.learner.model.lora import ServedWeight, adapter_weights, served_weights

_CHECK_TOLERANCE = 1e-3


class TrainedModel(nn.Module):  # type: ignore[misc]
    """Wraps a Hugging Face model; `causal.` is the prefix of its parameters' names.

    A forward pass takes `ids` [rows, width], padded on the right: attention is causal, so no real token attends to the
    padding, and no mask is needed. With `position_ids` [1, total], `ids` is one row of sequences end to end, and the
    positions start at 0 with each: from them transformers derives which tokens may attend to which.
    """

    def __init__(self, causal: PreTrainedModel) -> None:
        super().__init__()
        self.causal = causal

    def hidden(self, ids: Tensor, positions: Tensor, position_ids: Tensor | None) -> Tensor:
        """Last hidden states [n, width] at flat positions [n] of `ids` [rows, width]."""
        outputs = self.causal.base_model(input_ids=ids, position_ids=position_ids, use_cache=False)
        states: Tensor = outputs.last_hidden_state
        return states.flatten(0, 1)[positions]


class ValueHead(nn.Linear):  # type: ignore[misc]
    """A linear layer that starts at 0 and computes in float32: bfloat16 has steps of 0.008 near 1."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return nn.functional.linear(hidden.float(), self.weight.float(), self.bias.float())


class ValueModel(TrainedModel):
    """The causal model's backbone and a linear head that starts at 0, in place of the output embedding."""

    def __init__(self, causal: PreTrainedModel) -> None:
        super().__init__(causal.base_model)
        width = causal.config.get_text_config().hidden_size
        self.head = ValueHead(width, 1, dtype=causal.dtype)

    def forward(self, ids: Tensor, positions: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """Values [n], float32: the expected return after the token at each flat position [n] of `ids`."""
        values: Tensor = self.head(self.hidden(ids, positions, position_ids))
        return values.squeeze(-1)


class PolicyModel(TrainedModel):
    """The policy at the sampling temperature: log-probabilities and entropies of given tokens, in nats.

    The ids `masked` have probability 0, as in the sampler. `float32_head` computes logits in float32 whatever the
    model's own format is.
    """

    def __init__(
        self,
        causal: PreTrainedModel,
        temperature: float,
        *,
        masked: Sequence[int] = (),
        entropy_gradient: bool = False,
        float32_head: bool = False,
    ) -> None:
        super().__init__(causal)
        self.temperature = temperature
        self.entropy_gradient = entropy_gradient
        self.hidden_gradient: Tensor | None = None
        self.masked = tuple(masked)
        head = LogprobHead(causal.get_output_embeddings(), masked=self.masked, in_float32=float32_head)
        causal.set_output_embeddings(head)

    def forward(
        self, ids: Tensor, positions: Tensor, targets: Tensor, position_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy [n] of `targets` [n], each predicted at a flat position [n] of `ids`."""
        head = self.causal.get_output_embeddings()
        hidden = self.hidden(ids, positions, position_ids)
        if hidden.requires_grad:
            hidden.register_hook(self._keep_gradient)
        return head(hidden, targets, self.temperature, self.entropy_gradient)

    def _keep_gradient(self, gradient: Tensor) -> None:
        self.hidden_gradient = gradient.detach()

    def take_hidden_gradient(self) -> Tensor:
        """Gradient [n, width] of the last backward pass by the last hidden states of the tokens in the loss. Can be
        taken once."""
        gradient, self.hidden_gradient = self.hidden_gradient, None
        assert gradient is not None, "no backward pass"
        return gradient

    @property
    def vocabulary(self) -> int:
        return int(self.causal.config.get_text_config().vocab_size)

    def served_weights(self) -> dict[str, ServedWeight]:
        """The whole model, by Hugging Face names, LoRA merged; a tied output embedding is the input embedding."""
        return served_weights(self.causal)

    def adapter_weights(self) -> dict[str, ServedWeight]:
        """The LoRA adapter alone, by PEFT's names; empty without LoRA."""
        return adapter_weights(self.causal)


@torch.no_grad()
def check_head(causal: PreTrainedModel) -> None:
    """Refuse models whose logits are more than head(backbone(ids)), such as those with soft-capped logits."""
    ids = torch.tensor([[1, 2]])
    wanted = causal(input_ids=ids).logits.float()
    found = causal.get_output_embeddings()(causal.base_model(input_ids=ids).last_hidden_state).float()
    if not torch.allclose(found, wanted, atol=_CHECK_TOLERANCE, rtol=_CHECK_TOLERANCE):
        raise ValueError(
            f"model.path {causal.name_or_path}: {type(causal).__name__} transforms its logits after the output "
            "embedding, which the learner's log-probabilities would miss; use a model without such a transform"
        )


def masked_ids(causal: PreTrainedModel) -> tuple[int, ...]:
    """Ids of the model that its tokenizer has no token for: the generators never sample them.

    Raises OSError where the model's directory has no tokenizer.
    """
    tokenizer, config = AutoTokenizer.from_pretrained(causal.name_or_path), causal.config.get_text_config()
    ends = end_ids(config.eos_token_id, causal.generation_config.eos_token_id, tokenizer.eos_token_id)
    return tokenless_ids(tokenizer.get_vocab().values(), config.vocab_size, ends)


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
    if dtype == "bfloat16" and torch.cuda.is_available() and is_flash_attn_2_available():
        causal.set_attn_implementation("flash_attention_2")
    return causal
