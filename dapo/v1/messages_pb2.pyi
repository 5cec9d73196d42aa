from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason

class Version(_message.Message):
    __slots__ = ("incarnation", "step")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    step: int
    def __init__(self, incarnation: _Optional[int] = ..., step: _Optional[int] = ...) -> None: ...

class ChatMessage(_message.Message):
    __slots__ = ("role", "content")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    role: str
    content: str
    def __init__(self, role: _Optional[str] = ..., content: _Optional[str] = ...) -> None: ...

class Prompt(_message.Message):
    __slots__ = ("text", "messages", "chat_template_kwargs")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    CHAT_TEMPLATE_KWARGS_FIELD_NUMBER: _ClassVar[int]
    text: str
    messages: _containers.RepeatedCompositeFieldContainer[ChatMessage]
    chat_template_kwargs: str
    def __init__(self, text: _Optional[str] = ..., messages: _Optional[_Iterable[_Union[ChatMessage, _Mapping]]] = ..., chat_template_kwargs: _Optional[str] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_p", "max_response_tokens")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MAX_RESPONSE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_p: float
    max_response_tokens: int
    def __init__(self, temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., max_response_tokens: _Optional[int] = ...) -> None: ...

class PromptTask(_message.Message):
    __slots__ = ("group_id", "epoch", "cursor", "row_id", "prompt", "gold", "grader", "group_size", "issued_version", "evaluation", "sampling", "requeued_from")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    ROW_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    GOLD_FIELD_NUMBER: _ClassVar[int]
    GRADER_FIELD_NUMBER: _ClassVar[int]
    GROUP_SIZE_FIELD_NUMBER: _ClassVar[int]
    ISSUED_VERSION_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    REQUEUED_FROM_FIELD_NUMBER: _ClassVar[int]
    group_id: str
    epoch: int
    cursor: int
    row_id: str
    prompt: Prompt
    gold: str
    grader: str
    group_size: int
    issued_version: int
    evaluation: str
    sampling: Sampling
    requeued_from: str
    def __init__(self, group_id: _Optional[str] = ..., epoch: _Optional[int] = ..., cursor: _Optional[int] = ..., row_id: _Optional[str] = ..., prompt: _Optional[_Union[Prompt, _Mapping]] = ..., gold: _Optional[str] = ..., grader: _Optional[str] = ..., group_size: _Optional[int] = ..., issued_version: _Optional[int] = ..., evaluation: _Optional[str] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., requeued_from: _Optional[str] = ...) -> None: ...

class VersionSpan(_message.Message):
    __slots__ = ("version", "start", "end")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    version: Version
    start: int
    end: int
    def __init__(self, version: _Optional[_Union[Version, _Mapping]] = ..., start: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class Segment(_message.Message):
    __slots__ = ("role", "start", "end")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    role: str
    start: int
    end: int
    def __init__(self, role: _Optional[str] = ..., start: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class CompletionPayload(_message.Message):
    __slots__ = ("prompt_ids", "response_ids", "logprobs", "spans", "segments", "loss_mask")
    PROMPT_IDS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    LOSS_MASK_FIELD_NUMBER: _ClassVar[int]
    prompt_ids: bytes
    response_ids: bytes
    logprobs: bytes
    spans: _containers.RepeatedCompositeFieldContainer[VersionSpan]
    segments: _containers.RepeatedCompositeFieldContainer[Segment]
    loss_mask: bytes
    def __init__(self, prompt_ids: _Optional[bytes] = ..., response_ids: _Optional[bytes] = ..., logprobs: _Optional[bytes] = ..., spans: _Optional[_Iterable[_Union[VersionSpan, _Mapping]]] = ..., segments: _Optional[_Iterable[_Union[Segment, _Mapping]]] = ..., loss_mask: _Optional[bytes] = ...) -> None: ...

class Completion(_message.Message):
    __slots__ = ("group_id", "index", "attempt", "payload_key", "text_key", "prompt_tokens", "response_tokens", "finish_reason", "version_min", "version_max", "generator_id", "prompt_end", "spans", "salvaged_tokens")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_KEY_FIELD_NUMBER: _ClassVar[int]
    TEXT_KEY_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    VERSION_MIN_FIELD_NUMBER: _ClassVar[int]
    VERSION_MAX_FIELD_NUMBER: _ClassVar[int]
    GENERATOR_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_END_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    SALVAGED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    group_id: str
    index: int
    attempt: int
    payload_key: str
    text_key: str
    prompt_tokens: int
    response_tokens: int
    finish_reason: FinishReason
    version_min: int
    version_max: int
    generator_id: str
    prompt_end: str
    spans: _containers.RepeatedCompositeFieldContainer[VersionSpan]
    salvaged_tokens: int
    def __init__(self, group_id: _Optional[str] = ..., index: _Optional[int] = ..., attempt: _Optional[int] = ..., payload_key: _Optional[str] = ..., text_key: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., response_tokens: _Optional[int] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ..., version_min: _Optional[int] = ..., version_max: _Optional[int] = ..., generator_id: _Optional[str] = ..., prompt_end: _Optional[str] = ..., spans: _Optional[_Iterable[_Union[VersionSpan, _Mapping]]] = ..., salvaged_tokens: _Optional[int] = ...) -> None: ...

class Grade(_message.Message):
    __slots__ = ("completion", "correct", "score", "overlong_penalty", "reward", "reason", "extracted", "fingerprint", "repetition", "reflection", "parts", "unclosed_thinking", "answer_class")
    class PartsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    COMPLETION_FIELD_NUMBER: _ClassVar[int]
    CORRECT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    OVERLONG_PENALTY_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXTRACTED_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    REPETITION_FIELD_NUMBER: _ClassVar[int]
    REFLECTION_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    UNCLOSED_THINKING_FIELD_NUMBER: _ClassVar[int]
    ANSWER_CLASS_FIELD_NUMBER: _ClassVar[int]
    completion: Completion
    correct: bool
    score: float
    overlong_penalty: float
    reward: float
    reason: str
    extracted: str
    fingerprint: int
    repetition: float
    reflection: bool
    parts: _containers.ScalarMap[str, float]
    unclosed_thinking: bool
    answer_class: str
    def __init__(self, completion: _Optional[_Union[Completion, _Mapping]] = ..., correct: _Optional[bool] = ..., score: _Optional[float] = ..., overlong_penalty: _Optional[float] = ..., reward: _Optional[float] = ..., reason: _Optional[str] = ..., extracted: _Optional[str] = ..., fingerprint: _Optional[int] = ..., repetition: _Optional[float] = ..., reflection: _Optional[bool] = ..., parts: _Optional[_Mapping[str, float]] = ..., unclosed_thinking: _Optional[bool] = ..., answer_class: _Optional[str] = ...) -> None: ...

class TrainSample(_message.Message):
    __slots__ = ("payload_key", "prompt_tokens", "response_tokens", "reward", "advantage", "truncated", "in_loss")
    PAYLOAD_KEY_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    ADVANTAGE_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    IN_LOSS_FIELD_NUMBER: _ClassVar[int]
    payload_key: str
    prompt_tokens: int
    response_tokens: int
    reward: float
    advantage: float
    truncated: bool
    in_loss: bool
    def __init__(self, payload_key: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., response_tokens: _Optional[int] = ..., reward: _Optional[float] = ..., advantage: _Optional[float] = ..., truncated: _Optional[bool] = ..., in_loss: _Optional[bool] = ...) -> None: ...

class TrainGroup(_message.Message):
    __slots__ = ("group_id", "issued_version", "samples")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    ISSUED_VERSION_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    group_id: str
    issued_version: int
    samples: _containers.RepeatedCompositeFieldContainer[TrainSample]
    def __init__(self, group_id: _Optional[str] = ..., issued_version: _Optional[int] = ..., samples: _Optional[_Iterable[_Union[TrainSample, _Mapping]]] = ...) -> None: ...

class TrainBatch(_message.Message):
    __slots__ = ("batch", "groups", "end")
    BATCH_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    batch: int
    groups: _containers.RepeatedCompositeFieldContainer[TrainGroup]
    end: bool
    def __init__(self, batch: _Optional[int] = ..., groups: _Optional[_Iterable[_Union[TrainGroup, _Mapping]]] = ..., end: _Optional[bool] = ...) -> None: ...

class StepReport(_message.Message):
    __slots__ = ("batch", "version", "metrics", "fingerprint", "ranks")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    BATCH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    batch: int
    version: Version
    metrics: _containers.ScalarMap[str, float]
    fingerprint: str
    ranks: int
    def __init__(self, batch: _Optional[int] = ..., version: _Optional[_Union[Version, _Mapping]] = ..., metrics: _Optional[_Mapping[str, float]] = ..., fingerprint: _Optional[str] = ..., ranks: _Optional[int] = ...) -> None: ...

class TensorSpec(_message.Message):
    __slots__ = ("name", "dtype", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class WeightBucket(_message.Message):
    __slots__ = ("tensors",)
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    def __init__(self, tensors: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ...) -> None: ...

class JoinGroup(_message.Message):
    __slots__ = ("group_name", "master_address", "master_port", "world_size", "backend")
    GROUP_NAME_FIELD_NUMBER: _ClassVar[int]
    MASTER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    MASTER_PORT_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    group_name: str
    master_address: str
    master_port: int
    world_size: int
    backend: str
    def __init__(self, group_name: _Optional[str] = ..., master_address: _Optional[str] = ..., master_port: _Optional[int] = ..., world_size: _Optional[int] = ..., backend: _Optional[str] = ...) -> None: ...

class UpdateWeights(_message.Message):
    __slots__ = ("group_name", "version", "buckets")
    GROUP_NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BUCKETS_FIELD_NUMBER: _ClassVar[int]
    group_name: str
    version: Version
    buckets: _containers.RepeatedCompositeFieldContainer[WeightBucket]
    def __init__(self, group_name: _Optional[str] = ..., version: _Optional[_Union[Version, _Mapping]] = ..., buckets: _Optional[_Iterable[_Union[WeightBucket, _Mapping]]] = ...) -> None: ...

class LeaveGroup(_message.Message):
    __slots__ = ("group_name",)
    GROUP_NAME_FIELD_NUMBER: _ClassVar[int]
    group_name: str
    def __init__(self, group_name: _Optional[str] = ...) -> None: ...

class WeightCommand(_message.Message):
    __slots__ = ("serial", "deadline_s", "join", "update", "leave", "incarnation")
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    JOIN_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    LEAVE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    serial: int
    deadline_s: float
    join: JoinGroup
    update: UpdateWeights
    leave: LeaveGroup
    incarnation: int
    def __init__(self, serial: _Optional[int] = ..., deadline_s: _Optional[float] = ..., join: _Optional[_Union[JoinGroup, _Mapping]] = ..., update: _Optional[_Union[UpdateWeights, _Mapping]] = ..., leave: _Optional[_Union[LeaveGroup, _Mapping]] = ..., incarnation: _Optional[int] = ...) -> None: ...

class WeightReply(_message.Message):
    __slots__ = ("serial", "phase", "error", "pause_s")
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PAUSE_S_FIELD_NUMBER: _ClassVar[int]
    serial: int
    phase: str
    error: str
    pause_s: float
    def __init__(self, serial: _Optional[int] = ..., phase: _Optional[str] = ..., error: _Optional[str] = ..., pause_s: _Optional[float] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("generator_id", "version", "tensor_parallel", "state", "generated_tokens", "busy_s", "up_s", "running", "base_weights", "evaluates", "devices", "host")
    GENERATOR_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TENSOR_PARALLEL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BUSY_S_FIELD_NUMBER: _ClassVar[int]
    UP_S_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    BASE_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    EVALUATES_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    generator_id: str
    version: Version
    tensor_parallel: int
    state: str
    generated_tokens: int
    busy_s: float
    up_s: float
    running: int
    base_weights: str
    evaluates: bool
    devices: _containers.RepeatedScalarFieldContainer[str]
    host: str
    def __init__(self, generator_id: _Optional[str] = ..., version: _Optional[_Union[Version, _Mapping]] = ..., tensor_parallel: _Optional[int] = ..., state: _Optional[str] = ..., generated_tokens: _Optional[int] = ..., busy_s: _Optional[float] = ..., up_s: _Optional[float] = ..., running: _Optional[int] = ..., base_weights: _Optional[str] = ..., evaluates: _Optional[bool] = ..., devices: _Optional[_Iterable[str]] = ..., host: _Optional[str] = ...) -> None: ...

class SendJoin(_message.Message):
    __slots__ = ("member", "group_name")
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    GROUP_NAME_FIELD_NUMBER: _ClassVar[int]
    member: Member
    group_name: str
    def __init__(self, member: _Optional[_Union[Member, _Mapping]] = ..., group_name: _Optional[str] = ...) -> None: ...

class SendUpdate(_message.Message):
    __slots__ = ("version", "group_names")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    GROUP_NAMES_FIELD_NUMBER: _ClassVar[int]
    version: Version
    group_names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, version: _Optional[_Union[Version, _Mapping]] = ..., group_names: _Optional[_Iterable[str]] = ...) -> None: ...

class SendDrop(_message.Message):
    __slots__ = ("group_name",)
    GROUP_NAME_FIELD_NUMBER: _ClassVar[int]
    group_name: str
    def __init__(self, group_name: _Optional[str] = ...) -> None: ...

class SenderOrder(_message.Message):
    __slots__ = ("serial", "join", "update", "drop", "incarnation")
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    JOIN_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    DROP_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    serial: int
    join: SendJoin
    update: SendUpdate
    drop: SendDrop
    incarnation: int
    def __init__(self, serial: _Optional[int] = ..., join: _Optional[_Union[SendJoin, _Mapping]] = ..., update: _Optional[_Union[SendUpdate, _Mapping]] = ..., drop: _Optional[_Union[SendDrop, _Mapping]] = ..., incarnation: _Optional[int] = ...) -> None: ...

class SenderReport(_message.Message):
    __slots__ = ("serial", "group_name", "phase", "error", "pause_s", "incarnation")
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    GROUP_NAME_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PAUSE_S_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    serial: int
    group_name: str
    phase: str
    error: str
    pause_s: float
    incarnation: int
    def __init__(self, serial: _Optional[int] = ..., group_name: _Optional[str] = ..., phase: _Optional[str] = ..., error: _Optional[str] = ..., pause_s: _Optional[float] = ..., incarnation: _Optional[int] = ...) -> None: ...

class StoredGroup(_message.Message):
    __slots__ = ("group_id", "fields")
    class FieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    group_id: str
    fields: _containers.ScalarMap[str, bytes]
    def __init__(self, group_id: _Optional[str] = ..., fields: _Optional[_Mapping[str, bytes]] = ...) -> None: ...
