"""The root of the tree: every section of a run, and what follows from several of them."""

from typing import Any

from pydantic import Field, model_validator

from dapo.spec.tree.algorithm import GROUP_SIZES, AlgorithmSpec
from dapo.spec.tree.base import Section
from dapo.spec.tree.data import DataSpec, ModelSpec, SamplingSpec
from dapo.spec.tree.evaluation import FORM_FIELDS, EvaluationSpec, inherit
from dapo.spec.tree.graders import AnyGrader, HttpGrader, WeightedGrader, find_grader
from dapo.spec.tree.resources import ENGINE_RESERVE_TOKENS, ResourcesSpec
from dapo.spec.tree.reward import RewardSpec
from dapo.spec.tree.tracking import TrackingSpec
from dapo.spec.tree.training import (
    AsynchronySpec,
    CheckpointSpec,
    LoraSpec,
    MetricsSpec,
    OptimizerSpec,
    TrainingSpec,
    ValueSpec,
    WeightSyncSpec,
)


class RunTree(Section):
    """The fields of a run. RunSpec adds the checks across them, so a RunTree on its own may contradict itself."""

    name: str = Field(default="run", pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    """Start of the run's id: lower-case letters, digits and dashes."""
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Seed of the data order, the mini-batch order and the learner."""
    model: ModelSpec
    data: DataSpec
    sampling: SamplingSpec = SamplingSpec()
    reward: RewardSpec = RewardSpec()
    algorithm: AlgorithmSpec = AlgorithmSpec()
    optimizer: OptimizerSpec = OptimizerSpec()
    value: ValueSpec = ValueSpec()
    training: TrainingSpec = TrainingSpec()
    lora: LoraSpec = LoraSpec()
    asynchrony: AsynchronySpec = AsynchronySpec()
    weight_sync: WeightSyncSpec = WeightSyncSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    resources: ResourcesSpec = ResourcesSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    metrics: MetricsSpec = MetricsSpec()
    tracking: TrackingSpec = TrackingSpec()

    @property
    def longest_sequence(self) -> int:
        """Prompt and response tokens at most."""
        return self.data.max_prompt_tokens + self.sampling.max_response_tokens

    @property
    def smallest_pool(self) -> int:
        """Tokens that the engine's KV pool must hold: with less, SGLang would never admit the longest sequence."""
        return self.longest_sequence + ENGINE_RESERVE_TOKENS

    @property
    def generator_processes(self) -> int:
        """At most."""
        generator = self.resources.generator
        most = max(generator.replicas, generator.autoscale.max or 0, generator.max_replicas or 0)
        return most + self.evaluation.dedicated_generator

    @property
    def longest_deadline(self) -> tuple[str, float]:
        """What has the longest deadline that must come before `resources.restarts.stall_s`, and its seconds."""
        resources = self.resources
        deadlines = {
            "resources.restarts.wait_alert_s": resources.restarts.wait_alert_s,
            "resources.generator.request_silence_s": resources.generator.request_silence_s,
            "resources.generator.start_deadline_s": resources.generator.start_deadline_s,
        } | {
            f"half an hour and the requests of reward.graders.{name}": grader.patience_s
            for name, grader in self.reward.graders.items()
            if isinstance(grader, HttpGrader)
        }
        return max(deadlines.items(), key=lambda item: item[1])

    def serves_adapter(self, model_type: str) -> bool:
        """Whether generators run the LoRA adapter beside the base model's weights, see `lora.serving`. `model_type` is
        that of the text model's configuration."""
        if self.lora.rank is None or self.training.steps == 0:
            return False
        if self.lora.serving == "auto":
            return self.model.dtype == "bfloat16" and self.lora.may_serve_adapter(model_type)
        return self.lora.serving == "adapter"

    @property
    def referenced_graders(self) -> dict[str, str]:
        """Name of each grader that the spec refers to, and the field that does so first."""
        found = {self.reward.grader: "reward.grader"}
        sources = {f"data.sources.{name}": source for name, source in self.data.sources.items()}
        sets = {f"evaluation.sets.{name}": one for name, one in self.evaluation.sets.items()}
        for field, rows in (sources | sets).items():
            if rows.grader is not None:
                found.setdefault(rows.grader, f"{field}.grader")
        for name, grader in self.reward.graders.items():
            if isinstance(grader, WeightedGrader):
                for part in grader.parts:
                    found.setdefault(part, f"reward.graders.{name}.parts")
        return found

    @property
    def named_graders(self) -> dict[str, AnyGrader]:
        """Every grader that the spec names, by name. Raises UnknownGrader; a validated spec has none."""
        graders = self.reward.graders
        return {name: find_grader(name, graders) for name in self.referenced_graders} | graders

    @model_validator(mode="before")
    @classmethod
    def _group_size_from_preset(cls, value: Any) -> Any:
        algorithm = value.get("algorithm") if isinstance(value, dict) else None
        preset = algorithm.get("preset") if isinstance(algorithm, dict) else None
        if not isinstance(preset, str) or preset not in GROUP_SIZES:
            return value
        sampling = value.get("sampling", {})
        if not isinstance(sampling, dict):
            return value
        return {**value, "sampling": {"group_size": GROUP_SIZES[preset], **sampling}}

    @model_validator(mode="before")
    @classmethod
    def _literal_grader_from_preset(cls, value: Any) -> Any:
        """What is compared with verl is graded by the paper's exact rule, where the spec says nothing else."""
        match value:
            case {"algorithm": {"preset": "verl-parity"}}:
                reward = value.get("reward") or {}
                graders = reward.get("graders") or {} if isinstance(reward, dict) else None
                if isinstance(graders, dict):
                    literal = {"math_dapo": {"type": "math_dapo", "literal": True}}
                    return {**value, "reward": {**reward, "graders": literal | graders}}
        return value

    @model_validator(mode="before")
    @classmethod
    def _sets_inherit_the_form_of_prompts(cls, value: Any) -> Any:
        """Evaluation sets ask as the training does, where neither they nor their protocol say how."""
        match value:
            case {"data": dict(data), "evaluation": {"sets": dict(sets), **rest}}:
                form = {name: data[name] for name in FORM_FIELDS if name in data}
                inherited = {name: inherit(form, one) for name, one in sets.items()}
                return {**value, "evaluation": {**rest, "sets": inherited}}
        return value
