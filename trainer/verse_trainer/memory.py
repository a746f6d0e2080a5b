"""How much memory a training run takes, from the numbers in a model's config.json alone.

Four parts add up to the peak: the weights as they lie in memory; the adapter with its gradient and
Adam's two moments; what the forward pass keeps for the backward pass; and the logits, which with a
vocabulary of 150 thousand are often the largest. The factors were fitted to the measured peaks of
mlx 0.32.4 on small Qwen2 models of many shapes, float32, bfloat16 and 8 bits; a test holds them to
25 % of what mlx measures. One real step then says how far they are off for the run at hand; see
`calibrated`.
"""

from collections.abc import Collection
from typing import Any

import msgspec

from verse_trainer.config import TrainConfig

# Elements that a block keeps for each token: so many times the hidden size, so many times the
# intermediate size; dropout keeps its masked inputs as well. Attention adds heads x length.
_HIDDEN, _INTERMEDIATE = 11, 4
_HIDDEN_WITH_DROPOUT, _INTERMEDIATE_WITH_DROPOUT = 16, 6
_LOGITS_COPIES = 4
"""Logits, their exponentials and gradients; of models whose vocabulary is not taken in pieces."""
_PIECE_LOGITS, _LEAST_PIECE, _LARGEST_PIECE = 4 << 20, 1024, 16384
"""As in `vocabulary.py`; a test compares."""
CACHED_TOKENS = 1024
"""Of the rows that go through a frozen layer together."""
_IN_PIECES = frozenset({"qwen2", "qwen3", "llama", "mistral"})
"""Whose blocks are known; see `decoder.py`."""
_MIXED_BYTES = 2.6
"""Of an element where the base computes in 16 bits: the adapter beside it is float32."""
_ADAPTER_BYTES = 16
"""Weight, gradient and two moments in float32."""
_FLOAT32 = 4


class Quantization(msgspec.Struct, frozen=True):
    """How the weights of a quantized model are packed; scale and bias of a group take 16 bits."""

    bits: int
    group_size: int = 64

    @property
    def bytes_per_weight(self) -> float:
        """The share of the group's scale and bias included."""
        return (self.bits + 2 * 16 / self.group_size) / 8


class Architecture(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of a model's config.json that say how large it is: the Qwen and Llama families.

    Keys not needed here are left out.
    """

    model_type: str
    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    num_attention_heads: int
    vocab_size: int
    num_key_value_heads: int | None = None
    """None: as many as attention heads."""
    head_dim: int | None = None
    """None: the hidden size, shared out."""
    tie_word_embeddings: bool = False
    quantization: Quantization | None = None

    def projections(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of the linear layers of one block, by their path in it."""
        head = self.head_dim or self.hidden_size // self.num_attention_heads
        query = self.num_attention_heads * head
        value = (self.num_key_value_heads or self.num_attention_heads) * head
        return {
            "self_attn.q_proj": (self.hidden_size, query),
            "self_attn.k_proj": (self.hidden_size, value),
            "self_attn.v_proj": (self.hidden_size, value),
            "self_attn.o_proj": (query, self.hidden_size),
            "mlp.gate_proj": (self.hidden_size, self.intermediate_size),
            "mlp.up_proj": (self.hidden_size, self.intermediate_size),
            "mlp.down_proj": (self.intermediate_size, self.hidden_size),
        }

    def num_weights(self) -> int:
        """Of all matrices; norms and biases are too few to count."""
        embeddings = (1 if self.tie_word_embeddings else 2) * self.num_head_weights()
        return self.num_block_weights() * self.num_hidden_layers + embeddings

    def num_block_weights(self) -> int:
        """Of the matrices of one block."""
        return sum(inputs * outputs for inputs, outputs in self.projections().values())

    def num_head_weights(self) -> int:
        """Of the output head, which may be the embedding too."""
        return self.vocab_size * self.hidden_size


class MemoryEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """The peak, by what takes it."""

    weights_bytes: int
    adapter_bytes: int
    """Gradient and the optimizer's moments included."""
    activations_bytes: int
    logits_bytes: int
    caching_bytes: int = 0
    """Of the pass through frozen layers before the first step: what a step does not need."""

    @property
    def total_bytes(self) -> int:
        """At the peak."""
        moving = self.activations_bytes + self.logits_bytes
        return self.fixed_bytes + max(moving, self.caching_bytes)

    @property
    def fixed_bytes(self) -> int:
        """What does not depend on the batch."""
        return self.weights_bytes + self.adapter_bytes


def read_architecture(config: dict[str, Any]) -> Architecture | None:
    """The numbers of a decoded config.json; None if it describes another kind of model."""
    try:
        return msgspec.convert({**config, **(config.get("text_config") or {})}, Architecture)
    except msgspec.ValidationError:
        return None


def num_adapter_parameters(
    architecture: Architecture, rank: int, num_layers: int, keys: Collection[str] | None = None
) -> int:
    """Of a LoRA of this rank over the last blocks.

    Args:
        architecture: The base.
        rank: Of all modules.
        num_layers: Blocks adapted; below 1 all.
        keys: Paths inside a block; None for all linear layers.
    """
    sizes = architecture.projections()
    adapted = sizes if keys is None else [key for key in sizes if key in keys]
    per_block = sum(rank * sum(sizes[key]) for key in adapted)
    return per_block * _num_adapted(architecture, num_layers)


def estimate(
    architecture: Architecture,
    config: TrainConfig,
    row_tokens: int,
    *,
    bytes_per_weight: float | None = None,
    has_cache: bool = False,
) -> MemoryEstimate:
    """The peak of a LoRA run.

    Args:
        architecture: The base.
        config: Batch size, blocks, rank, dropout and gradient checkpointing are read.
        row_tokens: Of the longest row.
        bytes_per_weight: 4 where the base is loaded as float32, as on a CPU; None for what its
            config.json says, with 16 bits where it is not quantized.
        has_cache: The layers below those that are trained were computed once and let go. Their
            states are not counted: where they are not small they lie in a file.
    """
    is_float32 = bytes_per_weight == _FLOAT32
    lora = config.lora_parameters
    parameters = num_adapter_parameters(architecture, lora.rank, config.num_layers, lora.keys)
    packed = architecture.quantization.bytes_per_weight if architecture.quantization else 2
    per_weight = bytes_per_weight or packed
    weights = architecture.num_weights() * per_weight
    if has_cache:
        blocks = _num_adapted(architecture, config.num_layers) * architecture.num_block_weights()
        weights = blocks * per_weight + architecture.num_head_weights() * packed
    tokens = config.batch_size * row_tokens
    return MemoryEstimate(
        weights_bytes=round(weights),
        adapter_bytes=parameters * _ADAPTER_BYTES,
        activations_bytes=round(tokens * _kept(architecture, config, row_tokens, is_float32)),
        logits_bytes=_logits_bytes(architecture, tokens, _FLOAT32 if is_float32 else 2),
        caching_bytes=round(_caching_bytes(architecture, per_weight, packed)) if has_cache else 0,
    )


def _caching_bytes(architecture: Architecture, per_weight: float, packed: float) -> float:
    """Of one layer, as it is used and as it is stored, the embedding, and the rows that run."""
    block = architecture.num_block_weights() * (per_weight + (packed if per_weight > packed else 0))
    apart = 0 if architecture.tie_word_embeddings else architecture.num_head_weights() * packed
    width = _FLOAT32 if per_weight == _FLOAT32 else 2
    inner = _HIDDEN * architecture.hidden_size + 3 * architecture.intermediate_size
    return block + apart + CACHED_TOKENS * inner * width


def _logits_bytes(architecture: Architecture, tokens: int, width: int) -> int:
    """Of what stands between the hidden states and their losses."""
    if architecture.model_type not in _IN_PIECES:
        return _LOGITS_COPIES * tokens * architecture.vocab_size * width
    piece = max(_LEAST_PIECE, min(_LARGEST_PIECE, _PIECE_LOGITS // tokens))
    piece = min(piece, architecture.vocab_size)
    logits, sums = 3 * tokens * piece, 4 * tokens * architecture.hidden_size
    return (logits + sums) * _FLOAT32 + piece * architecture.hidden_size * width


def caches_layers(architecture: Architecture, config: TrainConfig) -> bool:
    """Whether a run computes its frozen layers once, as far as numbers tell."""
    is_partial = 0 < config.num_layers < architecture.num_hidden_layers
    return config.layer_cache and is_partial and architecture.model_type in _IN_PIECES


def states_bytes(architecture: Architecture, num_tokens: int, *, is_float32: bool = False) -> int:
    """Of what a layer cache keeps for so many tokens."""
    return num_tokens * architecture.hidden_size * (_FLOAT32 if is_float32 else 2)


def calibrated(estimated: MemoryEstimate, measured: MemoryEstimate, peak_bytes: int) -> int:
    """The peak of one estimate, corrected by what another, measured, was off.

    Args:
        estimated: Of the run in question.
        measured: Of the run that was measured.
        peak_bytes: Its real peak.
    """
    moving = max(1, measured.total_bytes - measured.fixed_bytes)
    factor = max(0, peak_bytes - measured.fixed_bytes) / moving
    return round(estimated.fixed_bytes + factor * (estimated.total_bytes - estimated.fixed_bytes))


def _kept(
    architecture: Architecture, config: TrainConfig, row_tokens: int, is_float32: bool
) -> float:
    """Bytes that the forward pass keeps for each token."""
    hidden, intermediate = (
        (_HIDDEN_WITH_DROPOUT, _INTERMEDIATE_WITH_DROPOUT)
        if config.lora_parameters.dropout > 0
        else (_HIDDEN, _INTERMEDIATE)
    )
    block = (
        hidden * architecture.hidden_size
        + intermediate * architecture.intermediate_size
        + architecture.num_attention_heads * row_tokens
    )
    num_adapted = _num_adapted(architecture, config.num_layers)
    if config.grad_checkpoint:  # only each block's input, and one block while it is computed again
        inputs = num_adapted * architecture.hidden_size * (_FLOAT32 if is_float32 else 2)
        return inputs + block * _FLOAT32
    # One more: the block whose gradient is being computed.
    return (num_adapted + 1) * block * (_FLOAT32 if is_float32 else _MIXED_BYTES)


def _num_adapted(architecture: Architecture, num_layers: int) -> int:
    return num_layers if num_layers > 0 else architecture.num_hidden_layers


def memory_of(
    architecture: Architecture | None,
    config: TrainConfig,
    row_tokens: int,
    base_bytes: int,
    resident_bytes: int = 0,
) -> MemoryEstimate | None:
    """The estimate for a base that was loaded; None where it is not known.

    Args:
        architecture: The base.
        config: Of the run.
        row_tokens: Of the longest row.
        base_bytes: Of all weights, as they would lie in memory.
        resident_bytes: Of those that stay beside a layer cache.
    """
    if architecture is None or config.fine_tune_type == "full":
        return None
    per_weight = base_bytes / architecture.num_weights()
    is_float32 = per_weight > 3  # only a CPU's weights take more than 2 bytes
    estimated = estimate(
        architecture, config, row_tokens, bytes_per_weight=4 if is_float32 else None
    )
    if caches_layers(architecture, config):
        base_bytes = resident_bytes
    return msgspec.structs.replace(estimated, weights_bytes=base_bytes)


WITHOUT_CACHE = "--no-layer-cache"


def alternatives(
    architecture: Architecture | None,
    config: TrainConfig,
    row_tokens: int,
    base_bytes: int,
    resident_bytes: int,
    peak_bytes: int,
) -> dict[str, int]:
    """The peak with one flag changed, corrected by the peak that was measured."""
    now = memory_of(architecture, config, row_tokens, base_bytes, resident_bytes)
    changes: dict[str, TrainConfig] = {}
    if config.batch_size > 1:
        half = config.batch_size // 2
        changes[f"--batch-size {half}"] = msgspec.structs.replace(config, batch_size=half)
    if architecture is not None and caches_layers(architecture, config):
        changes[WITHOUT_CACHE] = msgspec.structs.replace(config, layer_cache=False)
    if not config.grad_checkpoint:
        changes["--grad-checkpoint"] = msgspec.structs.replace(config, grad_checkpoint=True)
    peaks: dict[str, int] = {}
    for flag, changed in changes.items():
        other = memory_of(architecture, changed, row_tokens, base_bytes, resident_bytes)
        if now is not None and other is not None:
            peaks[flag] = calibrated(other, now, peak_bytes)
    return peaks
