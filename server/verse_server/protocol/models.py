"""What the server has, and how it is, on the wire.

`/v1/models` is OpenAI's four fields and what a poet wants to know of an adapter; beside it stand
`/v1/adapters`, its probe, vLLM's loading and unloading, `/tokenize` and its like, and `/health`.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from verse_server.protocol.chat import ChatCompletionMessageParam, TopLogprob
from verse_server.protocol.shared import NonEmpty, RequestStruct, TokenId, Unsupported


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One numbered state of an adapter."""

    id: str
    """What to put into a request's `model` field: `xuzhimo@200`."""
    step: int
    bytes: int


class AdapterReport(msgspec.Struct, frozen=True, kw_only=True):
    """What loading the adapter did to the base."""

    format: str
    matched: int
    """Modules of the base that the adapter changes."""
    unmatched: tuple[str, ...]
    """Empty: an adapter with any is refused, and `/v1/adapters` lists them with the refusal."""
    rank: int
    scale: float
    delta_norm: float | None
    """Size of the whole update (Frobenius norm); null until the adapter was first used."""
    bytes: int
    digest: str
    recorded_base: str | None
    warnings: tuple[str, ...]


class BlendPart(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter in a blend, or one with a strength of its own."""

    id: str
    """Its spelling without the strength."""
    strength: float
    digest: str | None
    report: AdapterReport | None


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """The base, an adapter, or one checkpoint of an adapter."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """Unix seconds: when the weights were written."""
    owned_by: str = "verse"
    parent: str | None
    """What it was made from: the base for an adapter, the adapter for a checkpoint."""
    root: str
    """The base at the root of the line."""
    checkpoints: tuple[Checkpoint, ...]
    digest: str | None
    """Version of the weights, their config and their prompt format; null for a blend.
    Of a base: over configuration, tokenizer and both ends of each tensor."""
    prompt_format: str | None
    system: str | None
    """The system message used when a request brings none."""
    report: AdapterReport | None
    """Null for a blend, whose `parts` have one each."""
    parts: tuple[BlendPart, ...]
    """Of a blend, or of an adapter with a strength."""


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """The base, then every adapter that can be served; each names its checkpoints."""

    object: Literal["list"] = "list"
    data: tuple[Model, ...]


class ResidentAdapter(msgspec.Struct, frozen=True, kw_only=True):
    """A version of an adapter that is in memory."""

    id: str
    """`xuzhimo`, or `xuzhimo@85` for a checkpoint."""
    digest: str
    slot: int
    pins: int
    """Requests that use it now."""


class Adapter(msgspec.Struct, frozen=True, kw_only=True):
    """A folder of the adapters folder, and what has become of it."""

    id: str
    object: Literal["adapter"] = "adapter"
    state: Literal["resident", "on_disk", "unloaded", "refused"]
    """`on_disk` is loaded by the next request; `unloaded` only when it is loaded again."""
    digest: str | None
    """Of the published weights; while there are none, of the newest checkpoint."""
    resident: tuple[ResidentAdapter, ...]
    """In slots; an older version stays while a request uses it."""
    report: AdapterReport | None
    error: str | None
    """Why it is refused."""
    unmatched: tuple[str, ...]
    """Modules it names and the base does not have, if that is why."""


class AdapterList(msgspec.Struct, frozen=True, kw_only=True):
    """Every folder, by name."""

    object: Literal["list"] = "list"
    data: tuple[Adapter, ...]
    num_slots: int
    """Versions that can be resident at once."""


class ProbeRequest(RequestStruct, frozen=True):
    """What to measure an adapter on."""

    prompt: NonEmpty
    """A theme, as a user's message in the adapter's own format."""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """How far an adapter moves the base's first token of an answer."""

    object: Literal["adapter.probe"] = "adapter.probe"
    model: str
    prompt_tokens: int
    kl_divergence: float
    """Of the adapted distribution from the base's, KL(adapted || base), in nats."""
    max_logit_change: float
    """0 means that the adapter changes nothing here."""
    mean_logit_change: float
    """Of the absolute changes, over the vocabulary."""
    top: tuple[TopLogprob, ...]
    """The likeliest first tokens with the adapter."""
    base_top: tuple[TopLogprob, ...]
    """And without."""


class LoadLoRAAdapterRequest(RequestStruct, frozen=True):
    """As vLLM takes it."""

    lora_name: NonEmpty
    """A name in the adapters folder, `xuzhimo` or `xuzhimo@85`."""
    lora_path: NonEmpty | None = None
    """That adapter's folder, absolute or below the adapters folder; any other place is refused."""
    load_inplace: bool | None = None
    """Changes nothing: files that have changed always replace what was loaded."""


class UnloadLoRAAdapterRequest(RequestStruct, frozen=True):
    """As vLLM takes it."""

    lora_name: NonEmpty


class HealthResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of the engine; the HTTP status says the same as `status`."""

    status: Literal["ok", "draining", "stalled", "dead"]
    running: int
    """Poems being written."""
    waiting: int
    """Requests not yet begun."""
    resident_adapters: int


class TokenizeRequest(RequestStruct, frozen=True):
    """A text or a conversation; exactly one of `prompt` and `messages`."""

    model: str | None = None
    """The base if left out; an adapter has a prompt format of its own."""
    prompt: str | None = None
    messages: Annotated[list[ChatCompletionMessageParam], Meta(min_length=1)] | None = None
    add_special_tokens: bool | None = None
    """What the tokenizer begins a `prompt` with; true if left out. Not for `messages`."""
    add_generation_prompt: bool | None = None
    """Of `messages`: open an answer at the end; true if left out."""
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None
    chat_template: Unsupported = None
    mm_processor_kwargs: Unsupported = None
    tools: Unsupported = None


class TokenizeResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Its tokens."""

    count: int
    max_model_len: int
    """The context of the base."""
    tokens: tuple[int, ...]
    token_strs: tuple[str, ...] | None = None
    """With `return_token_strs`: what the tokenizer calls each."""


class DetokenizeRequest(RequestStruct, frozen=True):
    """Tokens to be read."""

    tokens: Annotated[list[TokenId], Meta(max_length=2**20)]
    model: str | None = None


class DetokenizeResponse(msgspec.Struct, frozen=True):
    """The text that they spell."""

    prompt: str


class TokenizerInfoResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The base's tokenizer, for those who encode texts themselves."""

    tokenizer_class: str
    vocab_size: int
    model_max_length: int
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    unk_token: str | None
    chat_template: str | None
    """In Jinja."""


class VersionResponse(msgspec.Struct, frozen=True):
    """Of the server."""

    version: str
