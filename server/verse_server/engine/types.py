"""The records that cross the engine's interface, which is in `interface`.

No mlx here: the HTTP side and its tests import this module on machines that have none.
"""

from typing import Literal

import msgspec

from verse.prompt import PromptFormat

FinishReason = Literal["stop", "length"]


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How one row draws its tokens. The defaults draw from the model's own distribution.

    Order, as in transformers: schema, bias, penalties, temperature, top_k, top_p, min_p, XTC, draw.
    """

    temperature: float = 1.0
    """0 takes the likeliest token after bias and penalties, whatever the other fields say."""
    top_p: float = 1.0
    top_k: int = 0
    """0 means all tokens."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    """Over prompt and answer, as in CTRL (Keskar et al. 2019); 1 means none."""
    frequency_penalty: float = 0.0
    """Over the answer only, per occurrence, as OpenAI defines it."""
    presence_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    """Added to the logits of these token ids, before the penalties."""
    seed: int | None = None
    """None draws a fresh one."""
    xtc_probability: float = 0.0
    """How often, step by step, the likeliest tokens are left out ("exclude top choices")."""
    xtc_threshold: float = 0.1
    """Of the tokens more probable than this, before temperature, only the least probable stays."""

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken.

        Also where the temperature is so low that float32 logits divided by it might overflow.
        """
        return self.temperature < 1e-5


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """What loading an adapter did, so that an adapter that does nothing is never silent."""

    format: str
    """`mlx-lora`, `mlx-dora`, `peft-lora` or `peft-dora`."""
    matched: int
    """Modules of the base that the adapter changes."""
    unmatched: tuple[str, ...] = ()
    """Of one that is served: none. `AdapterInfo.unmatched` has those of a refused one."""
    rank: int
    """Largest rank over the modules."""
    scale: float
    """Largest factor the update is multiplied by (PEFT: alpha / rank)."""
    delta_norm: float | None = None
    """Frobenius norm of the whole update, all modules together; None until the first load."""
    bytes: int
    """Size of the weights file."""
    digest: str
    recorded_base: str | None = None
    """The base the adapter says it was trained on."""
    warnings: tuple[str, ...] = ()


class CheckpointInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One servable file of an adapter."""

    id: str
    """The spelling that serves it: `xuzhimo@200`."""
    step: int
    bytes: int


class ModelPart(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter in a blend, or one with a strength of its own."""

    id: str
    """Its spelling without the strength: `xuzhimo` or `xuzhimo@200`."""
    strength: float
    digest: str | None
    report: LoadReport | None


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A base, an adapter or one checkpoint of an adapter, as `/v1/models` shows it."""

    id: str
    created: int
    """Unix seconds: when the newest file of its weights was written."""
    parent: str | None = None
    """What it was made from: the base for an adapter, the adapter for a checkpoint."""
    root: str
    """The base at the root of the line."""
    checkpoints: tuple[CheckpointInfo, ...] = ()
    digest: str | None = None
    prompt_format: str | None = None
    system: str | None = None
    """The system message used when a request brings none."""
    report: LoadReport | None = None
    parts: tuple[ModelPart, ...] = ()
    """Of a blend, or of an adapter with a strength."""


class ResidentVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version of an adapter that is in memory; an older one may be while rows still use it."""

    id: str
    """The spelling it was last asked for by: `xuzhimo` or `xuzhimo@85`."""
    digest: str
    slot: int
    pins: int
    """Requests that use it now."""


class AdapterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter folder and what has become of it."""

    id: str
    state: Literal["resident", "on_disk", "unloaded", "refused"]
    """`on_disk` is loaded by the next request; `unloaded` only when it is loaded again."""
    digest: str | None = None
    """Of the published weights; while there are none, of the newest checkpoint."""
    resident: tuple[ResidentVersion, ...] = ()
    report: LoadReport | None = None
    error: str | None = None
    """Why it is refused."""
    unmatched: tuple[str, ...] = ()
    """Modules it names and the base does not have, if that is why."""


class BaseInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The resident base model."""

    id: str
    context_length: int
    vocab_size: int
    dtype: str
    bytes: int
    """As it lies in memory, packed or not."""
    created: int
    num_parameters: int = 0
    sampling: SamplingParams
    """Defaults of this base, from its generation_config.json."""
    max_tokens: int = 2048
    """Of an answer in a chat whose request names no limit."""
    weights: str = ""
    """How a CPU keeps the weights, and why; empty elsewhere."""
    knows_tools: bool = False
    """Whether its chat template shows tools, and calls of them in Qwen's form."""
    digest: str | None = None
    """Of what its folder holds; see `verse.adapter_digest`."""


class TokenizerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The base's tokenizer, for those who encode texts elsewhere."""

    tokenizer_class: str
    vocab_size: int
    model_max_length: int
    """The context of the base."""
    bos_token: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None
    unk_token: str | None = None
    chat_template: str | None = None
    """In Jinja."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A `model` field resolved: what to run and how its prompt is written."""

    model: str
    """The spelling to echo in the response."""
    prompt_format: PromptFormat
    parts: tuple["WeightedAdapter", ...] = ()
    """Empty for the base."""


class WeightedAdapter(msgspec.Struct, frozen=True, kw_only=True):
    """One adapter version and the strength it is applied with."""

    name: str
    """The spelling of this part without its strength: `xuzhimo` or `xuzhimo@200`."""
    digest: str
    """Version: hash of weights, config and prompt format."""
    strength: float = 1.0


class TokenText(msgspec.Struct, frozen=True, kw_only=True):
    """What a token stands for."""

    token: str
    """Its text; bytes that are no whole character show as U+FFFD."""
    bytes: tuple[int, ...]
    id: int = -1
    """In the vocabulary; -1 where nobody has said."""


class TokenLogprob(TokenText, frozen=True, kw_only=True):
    """A token and its log-probability under the model: before schema, bias, penalties, temperature.

    In an answer, tokens of the frame have no `bytes`: those of all tokens together are the text.
    """

    logprob: float
    top: tuple["TokenLogprob", ...] = ()
    """The likeliest tokens in its place, likeliest first."""
    rank: int | None = None
    """Of a token of the prompt: 1 is the likeliest in its place."""


class AdapterProbe(msgspec.Struct, frozen=True, kw_only=True):
    """How far an adapter moves the base's next token after one prompt."""

    model: str
    prompt_tokens: int
    kl_divergence: float
    """Of the adapted distribution from the base's, KL(adapted || base), in nats."""
    max_logit_change: float
    """0 means that the adapter changes nothing here."""
    mean_logit_change: float
    """Of the absolute changes, over the vocabulary."""
    top: tuple[TokenLogprob, ...]
    """The likeliest tokens with the adapter."""
    base_top: tuple[TokenLogprob, ...]
    """And without."""


class Constraint(msgspec.Struct, frozen=True):
    """What every answer must follow, to the letter."""

    kind: Literal["json_schema", "regex", "choice", "grammar"]
    text: str
    """A schema or a list of texts as JSON, a regular expression, or a grammar in Lark or GBNF."""
    param: str = "response_format"
    """The field that asked for it, for errors."""


class ScoringGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Prompts that came together and are scored together."""

    id: str
    size: int
    """How many they are."""


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt, what to run it on, how to draw, when to stop, and how many answers to write."""

    target: Target
    prompt: tuple[int, ...]
    """Token ids, at least one."""
    max_tokens: int
    """Prompt and answer together fit the context. 0 writes nothing: the prompt is all."""
    sampling: SamplingParams = SamplingParams()
    stop: tuple[str, ...] = ()
    n: int = 1
    """Answers; they share one prefill."""
    num_top_logprobs: int | None = None
    """How many likeliest tokens to report with each one drawn; None reports nothing."""
    score_prompt: bool = False
    """Report the prompt's own tokens as well."""
    scored_with: ScoringGroup | None = None
    """The prompts that this one came with; None if it came alone."""
    num_prompt_logprobs: int = 0
    """How many likeliest tokens to report with each of the prompt's."""
    report_end: bool = False
    """With `num_top_logprobs`: report the end token of an answer too."""
    ignore_eos: bool = False
    """No end token ends an answer, neither the base's nor the prompt format's."""
    min_tokens: int = 0
    """Before so many, no token that would end the answer is drawn, and no stop string is heeded."""
    stop_token_ids: tuple[int, ...] = ()
    """End an answer as end tokens do."""
    continues: bool = False
    """Whether the prompt ends within an answer, which goes on: nothing is taken off its beginning.
    """
    client: str = ""
    """Who asks; clients share the batch fairly."""
    is_batch: bool = False
    """Bulk work, which runs after everything else."""
    max_seconds: float | None = None
    """From being queued to the last token; the engine's own limit, if shorter, holds as well."""
    framed: bool = True
    """Whether the prompt is a conversation in the target's format. A text without a frame stops at
    no string of the format, and nothing is taken off its beginning."""
    constraint: Constraint | None = None
    """What every answer follows; None leaves them free."""
    streamed: bool = True
    """Whether somebody reads along. If not, the first piece of an answer tells that it has begun,
    and the rest comes at once."""


class GenerationChunk(msgspec.Struct, frozen=True, kw_only=True):
    """What one step added to one answer. Its texts put together are the answer."""

    index: int = 0
    """Which of the answers."""
    text: str
    target: Target
    """What wrote it. Not always the request's own: see `AdapterChangedError`."""
    completion_tokens: int
    """Tokens drawn so far for this answer, the end token included."""
    token_ids: tuple[int, ...] = ()
    """Those drawn since the chunk before, the end token included."""
    cached_tokens: int = 0
    """Tokens of the prompt that needed no computing."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """If asked for, of the tokens whose text begins in this chunk's. A token without any comes with
    the next one; one that begins with a stop string or behind it is left out."""
    scored_prompt: tuple[TokenText, ...] = ()
    """On the first chunk of an answer, if asked for: the prompt's tokens. Each is a `TokenLogprob`,
    but for the first, which comes after nothing."""
    finish_reason: FinishReason | None = None
    """Set on the last chunk of an answer only."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Whether tokens are being delivered, not whether a thread exists."""

    status: Literal["ok", "draining", "stalled", "dead"]
    running: int
    """Answers being written."""
    waiting: int
    """Requests not yet admitted."""
    resident_adapters: int


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """What has been counted since the start, and what is held now."""

    adapter_loads: int
    """Adapter versions read into a slot."""
    adapter_evictions: int
    """Versions that had to leave a slot for another one."""
    prefix_cache_bytes: int
    memory_bytes: int
    """Held by mlx: weights, adapters, keys and values."""
    peak_memory_bytes: int
    adapter_bytes: int = 0
    """Of the adapters in slots."""
    reusable_memory_bytes: int = 0
    """Freed arrays that mlx keeps; given back when there is nothing to do."""
