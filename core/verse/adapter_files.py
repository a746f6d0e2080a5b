"""What a file of adapter weights holds, judged by names, types and shapes alone; none is read.

One judgement for `serve`, `list`, `show`, `import` and all else that opens such a file.

mlx-lm names factors `PATH.lora_a` (in, rank), `PATH.lora_b` (rank, out), and DoRA's magnitude
`PATH.m` (out,). PEFT names them `base_model.model.PATH.lora_A.weight` (rank, in),
`.lora_B.weight` (out, rank) and `.lora_magnitude_vector` (out,).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from verse.adapter_config import AdapterConfig, PeftConfig
from verse.safetensors_header import SafetensorsHeaderError, TensorEntry, read_header
from verse.terminal import are, counted

Shape = tuple[int, ...]
Factor = Literal["a", "b", "m"]

_MLX_NAME = re.compile(r"(?P<module>.+)\.(?:lora_(?P<factor>[ab])|(?P<m>m))")
_PEFT_NAME = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\."
    r"(?:lora_(?P<factor>[AB])|(?P<m>lora_magnitude_vector))(?:\.(?!bias$)\w+)??(?:\.weight)?"
)
_TRAINING_ONLY = re.compile(r".+\.lora_(?:velora|monteclora)_\w+(?:\..+)?")
"""VeLoRA's compressed activations, MonteCLoRA's sampler: PEFT itself answers without them."""
_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embedding", "embeddings")
_DTYPES = ("F16", "BF16", "F32")
_MAX_NAMED = 3


class AdapterFileError(Exception):
    """The file cannot be served on this base; the text says why."""


class UnmatchedModulesError(AdapterFileError):
    """The file names modules that the base does not have."""

    def __init__(self, message: str, unmatched: Sequence[str]) -> None:
        self.unmatched = tuple(unmatched)
        super().__init__(message)


class ModuleShape(msgspec.Struct, frozen=True):
    """A Linear layer of the base: in and out dimensions."""

    in_dims: int
    out_dims: int


class ModuleFactors(msgspec.Struct, frozen=True, kw_only=True):
    """Where one module's update lies in the file and what its numbers mean."""

    a: str
    b: str
    m: str | None = None
    rank: int
    scale: float
    transposed: bool
    """Stored as PEFT does, (rank, in) and (out, rank)."""


class AdapterPlan(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How to read a file whose every tensor fits the base."""

    modules: dict[str, ModuleFactors]
    recorded_base: str | None
    format: str
    notes: tuple[str, ...] = ()
    """What of the file is left out and why, a sentence each without a full stop."""

    @property
    def rank(self) -> int:
        """Largest rank over the modules."""
        return max(factors.rank for factors in self.modules.values())

    @property
    def scale(self) -> float:
        """Largest factor over the modules."""
        return max((factors.scale for factors in self.modules.values()), key=abs)

    @property
    def uses_dora(self) -> bool:
        """Whether any module has a magnitude."""
        return any(factors.m for factors in self.modules.values())


def plan_adapter(
    file: Path,
    config: AdapterConfig,
    base_modules: Mapping[str, ModuleShape] | None,
    *,
    allows_float64: bool = False,
) -> AdapterPlan:
    """Match a file's tensors to the base's modules.

    Every tensor must fit: an adapter that is applied in part is not the one that was trained. What
    the library that wrote it would not apply either is left out and noted.

    Args:
        file: The weights.
        config: What the folder says of them.
        base_modules: The base's Linear layers by path; None where the base is not at hand, and the
            tensors need only fit each other and the recorded rank.
        allows_float64: Whether whoever asks converts such numbers, which mlx cannot read.

    Raises:
        UnmatchedModulesError: it names modules that the base does not have.
        AdapterFileError: unreadable file, unknown tensors, or numbers of another type.
    """
    is_peft = isinstance(config, PeftConfig)
    entries = _read_entries(file)
    _check_dtypes(entries, allows_float64)
    shapes = {name: entry.shape for name, entry in entries.items()}
    unused = [n for n in shapes if _TRAINING_ONLY.fullmatch(n)] if is_peft else []
    used = {name: shape for name, shape in shapes.items() if name not in set(unused)}
    found = _by_module(used, _PEFT_NAME if is_peft else _MLX_NAME)
    _check_embeddings(found, base_modules)
    named = {module: names for module, names in found.items() if config.adapts(module)}
    if not named:
        raise AdapterFileError(
            f"adapter_config.json names none of its {counted(len(found), 'module')} "
            f"({_some([*found])}) as adapted, so it would change nothing."
        )
    if base_modules is not None:
        _check_modules(set(named), base_modules)
    modules = {
        module: _factors(
            module, names, shapes, config, None if base_modules is None else base_modules[module]
        )
        for module, names in named.items()
    }
    dialect, kind = ("peft" if is_peft else "mlx"), ("dora" if config.uses_dora else "lora")
    return AdapterPlan(
        modules=modules,
        recorded_base=config.recorded_base,
        format=f"{dialect}-{kind}",
        notes=_notes([module for module in found if module not in named], unused, is_peft),
    )


def _read_entries(file: Path) -> dict[str, TensorEntry]:
    try:
        return read_header(file).tensors
    except SafetensorsHeaderError as error:
        raise AdapterFileError(str(error)) from error


def _check_dtypes(entries: Mapping[str, TensorEntry], allows_float64: bool) -> None:
    """Of 8-bit floats mlx makes whole numbers, and it cannot read 64-bit ones."""
    allowed = (*_DTYPES, "F64") if allows_float64 else _DTYPES
    for name, entry in entries.items():
        if entry.dtype not in allowed:
            way_out = "save it as one of these"
            if entry.dtype == "F64":
                way_out += ", or convert it with `verse adapters import`, which takes PEFT folders"
            raise AdapterFileError(
                f"{name} is stored as {entry.dtype}, and only {', '.join(_DTYPES)} can be used; "
                f"{way_out}."
            )


def _check_embeddings(
    modules: Iterable[str], base_modules: Mapping[str, ModuleShape] | None
) -> None:
    for module in modules:
        if module.rsplit(".", 1)[-1] in _EMBEDDINGS and module not in (base_modules or ()):
            raise AdapterFileError(f"{module} is an embedding, and only Linear layers are adapted.")


def _notes(left_out: list[str], unused: list[str], is_peft: bool) -> tuple[str, ...]:
    notes: list[str] = []
    if left_out:
        notes.append(
            f"{len(left_out)} of its modules are left out, since adapter_config.json does not name "
            f"them as adapted ({_some(left_out)}); {'PEFT' if is_peft else 'mlx-lm'} does the same"
        )
    if unused:
        notes.append(
            f"{counted(len(unused), 'tensor')} that only training uses "
            f"{are(len(unused))} ignored ({_some(unused)})"
        )
    return tuple(notes)


def _by_module(
    shapes: Mapping[str, Shape], pattern: re.Pattern[str]
) -> dict[str, dict[Factor, str]]:
    modules: dict[str, dict[Factor, str]] = {}
    unexpected: list[str] = []
    for name in shapes:
        match = pattern.fullmatch(name)
        if match is None:
            unexpected.append(name)
            continue
        factor: Factor = "m" if match["m"] else ("a" if match["factor"] in "aA" else "b")
        module = modules.setdefault(match["module"], {})
        if factor in module:
            raise AdapterFileError(f"{module[factor]} and {name} are the same factor twice.")
        module[factor] = name
    if unexpected:
        raise AdapterFileError(
            f"it holds tensors that are no LoRA factors of a Linear layer ({_some(unexpected)})."
        )
    if not modules:
        raise AdapterFileError("it holds no LoRA factors, so it would change nothing.")
    return modules


def _check_modules(named: set[str], base_modules: Mapping[str, ModuleShape]) -> None:
    missing = sorted(named - set(base_modules))
    if len(missing) == len(named):
        raise UnmatchedModulesError(
            f"none of its {counted(len(named), 'module')} is a Linear layer of this base "
            f"({_some(missing)}); it was trained on another one.",
            missing,
        )
    if missing:
        raise UnmatchedModulesError(
            f"{len(missing)} of its {counted(len(named), 'module')} "
            f"{'is no Linear layer' if len(missing) == 1 else 'are no Linear layers'} of this base "
            f"({_some(missing)}); it was trained on another one, or on layers of another kind.",
            missing,
        )


def _factors(
    module: str,
    names: Mapping[Factor, str],
    shapes: Mapping[str, Shape],
    config: AdapterConfig,
    base: ModuleShape | None,
) -> ModuleFactors:
    if "a" not in names or "b" not in names:
        raise AdapterFileError(f"{module} has only one of its two factors.")
    if config.uses_dora != ("m" in names):
        raise AdapterFileError(
            f"{module} has {'no' if config.uses_dora else 'a'} DoRA magnitude, "
            "which adapter_config.json contradicts."
        )
    rank = config.rank_of(module)
    transposed = isinstance(config, PeftConfig)
    base = base or _shape_by_factors(module, shapes[names["a"]], shapes[names["b"]], transposed)
    expected: dict[Factor, Shape] = {
        "a": (rank, base.in_dims) if transposed else (base.in_dims, rank),
        "b": (base.out_dims, rank) if transposed else (rank, base.out_dims),
        "m": (base.out_dims,),
    }
    for factor, name in names.items():
        if shapes[name] != expected[factor]:
            raise AdapterFileError(
                f"{name} has shape {shapes[name]} where this base and the recorded rank {rank} "
                f"need {expected[factor]}; it was trained on another base or with another rank."
            )
    return ModuleFactors(
        a=names["a"],
        b=names["b"],
        m=names.get("m"),
        rank=rank,
        scale=config.scale_of(module),
        transposed=transposed,
    )


def _shape_by_factors(module: str, a: Shape, b: Shape, transposed: bool) -> ModuleShape:
    """The layer that two factors of one rank belong to."""
    if len(a) != 2 or len(b) != 2:
        raise AdapterFileError(f"{module} is no Linear layer: its factors are {a} and {b}.")
    return ModuleShape(a[1], b[0]) if transposed else ModuleShape(a[0], b[1])


def _some(names: list[str]) -> str:
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
