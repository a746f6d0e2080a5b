"""`adapter_config.json` in the two dialects there are: mlx-lm's and PEFT's.

Which one a file speaks is told by its keys. What Verse cannot serve is named by `refusal`.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_REFUSED = (
    "modules_to_save",
    "lora_bias",
    "fan_in_fan_out",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "arrow_config",
    "alora_invocation_tokens",
)
"""Options of PEFT that make an update of another form than `scale * B A x`."""


class LoraParameters(msgspec.Struct, frozen=True, kw_only=True):
    """mlx-lm's `lora_parameters`."""

    rank: int
    scale: float | None = None
    """Factor of the update, as it is: mlx-lm does not divide by the rank."""
    alpha: float | None = None
    """Read only where `scale` is missing; the factor is then alpha / rank."""
    keys: list[str] | None = None
    """Modules by their path inside a block, or in full outside of the blocks; None means all."""


class MlxConfig(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What mlx-lm writes beside `adapters.safetensors`; keys not needed here are left out."""

    lora_parameters: LoraParameters | None = None
    fine_tune_type: str = "lora"
    use_dora: bool | None = None
    """Written by early versions of mlx-lm in place of `fine_tune_type`; read only without that."""
    model: str | None = None
    best_step: int | None = None
    """Step with the lowest validation loss. Verse's own key."""

    @property
    def recorded_base(self) -> str | None:
        """The base the adapter was trained on."""
        return self.model

    @property
    def uses_dora(self) -> bool:
        """Whether the weights hold a magnitude per output."""
        return self.fine_tune_type == "dora"

    def adapts(self, module: str) -> bool:
        """Whether mlx-lm would put this module's factors to use: `keys`, if given, names it."""
        keys = self.lora_parameters and self.lora_parameters.keys
        return keys is None or module in keys or _path_in_block(module) in keys

    def rank_of(self, module: str) -> int:  # noqa: ARG002  one rank for all modules
        """The rank of the update of one module."""
        return self._parameters.rank

    def scale_of(self, module: str) -> float:  # noqa: ARG002
        """The factor `lora_a @ lora_b` is multiplied by."""
        parameters = self._parameters
        if parameters.scale is not None:
            return parameters.scale
        return (parameters.alpha or 0.0) / parameters.rank

    @property
    def _parameters(self) -> LoraParameters:
        if self.lora_parameters is None:
            raise ValueError("lora_parameters is missing")
        return self.lora_parameters

    def refusal(self) -> str | None:
        """Why adapters of this kind cannot be served; None if they can."""
        if self.fine_tune_type == "full":
            return (
                "it is a full fine-tune, not an adapter; fuse it and serve the result with --model."
            )
        if self.fine_tune_type not in ("lora", "dora"):
            return f"fine_tune_type {self.fine_tune_type!r} is neither lora nor dora."
        parameters = self.lora_parameters
        if parameters is None or parameters.rank < 1:
            return "adapter_config.json has no lora_parameters with a rank."
        if parameters.scale is None and parameters.alpha is None:
            return "lora_parameters in adapter_config.json has no scale."
        return None


class PeftConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What PEFT writes beside `adapter_model.safetensors`.

    Source: peft's LoraConfig; only the keys that change the arithmetic are read.
    """

    peft_type: str
    r: int = 8
    lora_alpha: float = 8
    base_model_name_or_path: str | None = None
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}
    bias: str = "none"
    lora_bias: bool = False
    fan_in_fan_out: bool = False
    modules_to_save: list[str] | None = None
    trainable_token_indices: Any = None
    target_parameters: list[str] | None = None
    layer_replication: Any = None
    init_lora_weights: Any = True
    use_qalora: bool = False
    use_bdlora: Any = None
    alora_invocation_tokens: Any = None
    arrow_config: Any = None
    kasa_config: Any = None
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    unknown_variants: tuple[str, ...] | None = None
    """Switches that are on and not known here; read off the file's keys, no key itself."""

    @property
    def recorded_base(self) -> str | None:
        """The base the adapter was trained on."""
        return self.base_model_name_or_path

    @property
    def uses_dora(self) -> bool:
        """Whether the weights hold a magnitude per output."""
        return self.use_dora

    def rank_of(self, module: str) -> int:
        """The rank of one module: the first pattern that ends its path, else `r`."""
        return next(_matching(self.rank_pattern, module), self.r)

    def scale_of(self, module: str) -> float:
        """Alpha / rank, or alpha / sqrt(rank) with rsLoRA (Kalajdzievski 2023)."""
        alpha = next(_matching(self.alpha_pattern, module), self.lora_alpha)
        rank = self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def adapts(self, module: str) -> bool:
        """Whether PEFT would put this module's factors to use.

        Source: check_target_module_exists in peft/tuners/tuners_utils.py. A list names the ends of
        paths, a string is a regular expression for whole ones and knows no layers.
        """
        if self.exclude_modules and _is_named(module, self.exclude_modules):
            return False
        targets = self.target_modules
        if targets is None or targets == "all-linear":
            return self._is_in_layers(module)
        if isinstance(targets, str) or module in targets:
            return _is_named(module, targets)
        return _is_named(module, targets) and self._is_in_layers(module)

    def _is_in_layers(self, module: str) -> bool:
        layers = self.layers_to_transform
        if layers is None or layers == []:
            return True
        patterns = self.layers_pattern or [r"[^.]*"]
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            if found := re.match(rf"(?:^|.*?\.){pattern}\.(?P<layer>\d+)\.", module):
                return int(found["layer"]) in ([layers] if isinstance(layers, int) else layers)
        return False

    def refusal(self) -> str | None:
        """Why adapters of this kind cannot be served; None if they can."""
        if self.peft_type.upper() != "LORA":
            return f"peft_type {self.peft_type!r} is not LORA."
        if min([self.r, *self.rank_pattern.values()]) < 1:
            return "adapter_config.json records a rank below 1."
        for key in self._regexes():
            if not _is_regex(key):
                return f"the pattern {key!r} in adapter_config.json is not a regular expression."
        named = ", ".join([*self._refused_options(), *(self.unknown_variants or ())])
        return f"it uses {named}, which cannot be served beside other adapters." if named else None

    def _regexes(self) -> Iterator[str]:
        yield from (*self.rank_pattern, *self.alpha_pattern)
        whole = (self.target_modules, self.exclude_modules, self.layers_pattern)
        yield from (regex for regex in whole if isinstance(regex, str))
        yield from self.layers_pattern if isinstance(self.layers_pattern, list) else ()

    def _refused_options(self) -> Iterator[str]:
        # These start from a base whose own weights PEFT has changed.
        changed_base = ("pissa", "olora", "corda", "loftq", "lora_ga")
        yield from (option for option in _REFUSED if getattr(self, option))
        if self.bias != "none":
            yield f"bias={self.bias!r}"
        if str(self.init_lora_weights).lower().startswith(changed_base):
            yield f"init_lora_weights={self.init_lora_weights!r}"


AdapterConfig = MlxConfig | PeftConfig


def decode_adapter_config(data: bytes) -> AdapterConfig:
    """Decode either dialect.

    Raises:
        ValueError: the bytes are not JSON, or speak neither.
    """
    keys = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    if "peft_type" in keys:
        config = msgspec.json.decode(data, type=PeftConfig)
        return msgspec.structs.replace(config, unknown_variants=_unknown_variants(keys))
    if "lora_parameters" in keys or "fine_tune_type" in keys:
        config = msgspec.json.decode(data, type=MlxConfig)
        if config.use_dora and "fine_tune_type" not in keys:
            return msgspec.structs.replace(config, fine_tune_type="dora")
        return config
    raise ValueError("it names neither peft_type nor lora_parameters")


def _unknown_variants(keys: dict[str, msgspec.Raw]) -> tuple[str, ...] | None:
    """Every variant of LoRA in PEFT is a switch; one that is not known here may be anything."""
    switches = (key for key in keys if key.startswith("use_") and not hasattr(PeftConfig, key))
    return tuple(key for key in switches if msgspec.json.decode(keys[key])) or None


def _path_in_block(module: str) -> str | None:
    """`self_attn.q_proj` of `model.layers.3.self_attn.q_proj`; None outside of the blocks."""
    found = re.match(r".*?\.\d+\.(.+)", module)
    return found and found[1]


def _is_named(module: str, targets: list[str] | str) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    return any(module == target or module.endswith(f".{target}") for target in targets)


def _is_regex(key: str) -> bool:
    try:
        re.compile(f"({key})$")
    except re.error:
        return False
    return True


def _matching(pattern: dict[str, T], module: str) -> Iterator[T]:
    """Values whose key, a regular expression, matches the end of the module's path."""
    return (value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", module))
