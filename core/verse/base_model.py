"""Load a base model once: any mlx-lm folder or Hugging Face id.

The caller's thread owns the model from then on: mlx streams are thread-local, so whoever loads it
must also run it.
"""

import json
import os
import resource
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from verse import library_shortcuts, openblas

openblas.preload()
library_shortcuts.quicken_import()

import mlx.core as mx  # noqa: E402  OpenBLAS must be there first
import mlx.nn as nn  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402  # pyright: ignore[reportUnknownVariableType]


@contextmanager
def _limits_kept() -> Generator[None]:
    """While mlx-lm is imported: it sets how many files may be open to 2048, and at most 4096.

    A process that may open more would be left with fewer, and one that may not ends in a traceback.
    """
    real = resource.setrlimit

    def raise_only(which: int, wanted: tuple[int, int]) -> None:
        soft, hard = resource.getrlimit(which)
        enough = wanted[0] if hard == resource.RLIM_INFINITY else min(wanted[0], hard)
        if soft != resource.RLIM_INFINITY and soft < enough:
            with suppress(ValueError, OSError):  # macOS allows fewer than it says
                real(which, (enough, hard))

    resource.setrlimit = raise_only
    try:
        yield
    finally:
        resource.setrlimit = real


with _limits_kept():
    from mlx_lm import utils as mlx_lm_utils
    from mlx_lm.tokenizer_utils import TokenizerWrapper

from verse import UserError  # noqa: E402
from verse.adapter_files import ModuleShape  # noqa: E402
from verse.cpu_weights.layers import PackedLinear  # noqa: E402
from verse.cpu_weights.packing import (  # noqa: E402
    MEMORY_SHARE,
    CpuWeights,
    CpuWeightsError,
    WeightsChoice,
    choose,
    pack_model,
    weight_cache,
)
from verse.cpu_weights.weight_cache import cache_folder  # noqa: E402
from verse.folders import located_model  # noqa: E402
from verse.prompt import Tokenizer  # noqa: E402
from verse.weight_files import INDEX, WeightFilesError, check_weight_files  # noqa: E402

_FLOAT32_BYTES = 4
_EVAL_BYTES = 256 << 20
_UNRECORDED_CONTEXT = 4096
_TOKENIZER_FILES = ["*.json", "*.jinja", "*.txt", "tokenizer.model", "*.tiktoken"]


class Shard(Protocol):
    """How a model is split among several processes."""

    @property
    def num_parts(self) -> int:
        """About what share of the weights each has."""
        ...

    def split(self, model: nn.Module, config: dict[str, Any]) -> nn.Module:
        """Leave the part of this process; nothing is read yet.

        Raises:
            BaseModelError: the model cannot be split so.
        """
        ...


class BaseModelError(UserError):
    """The model cannot be loaded; one sentence that says what to do."""


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A resident model and what the rest of Verse needs to know of it."""

    model: nn.Module
    tokenizer: TokenizerWrapper
    """mlx-lm's wrapper: end tokens and streaming detokenizer."""
    id: str
    path: Path
    config: dict[str, Any]
    generation_config: dict[str, Any]
    """The model's own sampling defaults; empty where it has none."""
    dtype: mx.Dtype
    """Of the activations."""
    bytes: int
    """As they lie in memory."""
    num_parameters: int
    weights: str = ""
    """How a CPU keeps them, in words; empty elsewhere."""
    is_packed: bool = False
    """Whether the host multiplies them, and at once: see `verse.cpu_weights`."""

    @property
    def vocab_size(self) -> int:
        """Logits per token; a few may belong to no token."""
        nested = cast(dict[str, Any], self.config.get("text_config") or {})
        return int({**nested, **self.config}["vocab_size"])

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together; 4096 where the model does not say."""
        return _recorded_context(self.config)

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return frozenset(cast(Any, self.tokenizer).eos_token_ids)

    @property
    def special_tokens(self) -> frozenset[int]:
        """Tokens of the frame around a text, never part of it."""
        return frozenset(cast(Any, self.hf_tokenizer).all_special_ids)

    @property
    def hf_tokenizer(self) -> Tokenizer:
        """The tokenizer below mlx-lm's wrapper, as `verse.prompt.render` wants it."""
        return _hf_tokenizer(self.tokenizer)


@dataclass(frozen=True, kw_only=True)
class BaseTokenizer:
    """What a base model makes of text, without its weights."""

    hf_tokenizer: Tokenizer
    config: dict[str, Any]

    @property
    def context_length(self) -> int:
        """As of `BaseModel`."""
        return _recorded_context(self.config)


def model_folder(path_or_id: str) -> Path:
    """The folder of a base model; of a Hugging Face id, after all of it has been downloaded.

    Raises:
        BaseModelError: there is no such model.
    """
    return _find(path_or_id)[0]


def load_base_tokenizer(path_or_id: str) -> BaseTokenizer:
    """Load the tokenizer of a base model alone; of a Hugging Face id, no weights are downloaded.

    Raises:
        BaseModelError: there is no such model, or its tokenizer cannot be read.
    """
    path, _ = _find(path_or_id, _TOKENIZER_FILES)
    try:
        with library_shortcuts.quicker_tokenizers():
            wrapper = mlx_lm_utils.load_tokenizer(path)  # pyright: ignore[reportUnknownMemberType]
        config = cast(dict[str, Any], json.loads((path / "config.json").read_text("utf-8")))
    except Exception as error:
        raise BaseModelError(
            f"The tokenizer in {path} cannot be loaded: {_short(error)}"
        ) from error
    _refuse_without_tokens(wrapper, path)
    return BaseTokenizer(hf_tokenizer=_hf_tokenizer(wrapper), config=config)


def load_base_model(
    path_or_id: str,
    on_progress: Callable[[float], None] = lambda _share: None,
    *,
    trust_remote_code: bool = False,
    as_stored: bool = False,
    cpu_weights: CpuWeights = "float32",
    shard: "Shard | None" = None,
) -> BaseModel:
    """Load weights and tokenizer, and bring every weight into memory.

    On a CPU the weights are packed for it, or become float32 while they fit: mlx has no fast
    products of other types there.

    Args:
        path_or_id: A folder in mlx-lm's layout, or a Hugging Face id, which mlx-lm downloads.
        on_progress: Told the share of bytes in memory, 0 to 1, from this thread.
        trust_remote_code: Run Python that lies in the model folder. The server never does.
        as_stored: Keep the weights' own type, and leave them on the disk until they are used.
        cpu_weights: On a CPU, what becomes of them; elsewhere it says nothing.
        shard: Leaves of the model what this one of several processes computes; nothing is packed.

    Raises:
        BaseModelError: there is no such model, or mlx-lm cannot read it.
    """
    path, id_ = _find(path_or_id)
    _refuse_missing_files(path)
    choice, packed_bytes = None, 0
    try:
        model, config = cast(
            tuple[nn.Module, dict[str, Any]],
            mlx_lm_utils.load_model(  # pyright: ignore[reportUnknownMemberType]
                path, lazy=True, trust_remote_code=trust_remote_code
            ),
        )
        num_parameters = _num_parameters(model)  # before the host takes them
        if shard is None and not as_stored and runs_on_cpu():
            choice = choose(model, path, cpu_weights, _memory_bytes())
        # Beside what is measured for the choice nothing else may run.
        settings = {"trust_remote_code": trust_remote_code}
        with ThreadPoolExecutor(1, "tokenizer") as pool:
            tokenizer = pool.submit(_load_tokenizer, path, config, settings)

            def progress(share: float) -> None:
                if tokenizer.done():
                    tokenizer.result()  # raises what is wrong with it
                on_progress(share)

            if shard is not None:
                model = shard.split(_for_cpu(model, shard.num_parts), config)
                _bring_in(model, progress)
            elif choice is not None and choice.kind is not None:
                packed_bytes = _pack(model, path, choice, progress)
            elif not as_stored:
                model = _for_cpu(model)
                _bring_in(model, progress)
            tokenizer.result()
    except (BaseModelError, CpuWeightsError) as error:
        raise BaseModelError(str(error)) from error
    except Exception as error:
        raise BaseModelError(f"The model in {path} cannot be loaded: {_short(error)}") from error
    return BaseModel(
        model=model,
        tokenizer=tokenizer.result(),
        id=id_,
        path=path,
        config=config,
        generation_config=_read_generation_config(path),
        dtype=_activation_dtype(model),
        bytes=packed_bytes + sum(array.nbytes for _, array in _arrays(model)),
        num_parameters=num_parameters,
        weights="" if choice is None else choice.words,
        is_packed=packed_bytes > 0,
    )


def _load_tokenizer(path: Path, config: dict[str, Any], settings: dict[str, Any]) -> Any:
    end_tokens = config.get("eos_token_id")
    with library_shortcuts.quicker_tokenizers():
        tokenizer = mlx_lm_utils.load_tokenizer(path, settings, end_tokens)  # pyright: ignore[reportUnknownMemberType]
    _refuse_without_tokens(tokenizer, path)
    _drop_sources(tokenizer)
    return tokenizer


def _pack(
    model: nn.Module, path: Path, choice: WeightsChoice, on_progress: Callable[[float], None]
) -> int:
    assert choice.kind is not None
    caches = cache_folder() if choice.kind == "int8" else None
    cache = None if caches is None else weight_cache(model, path, caches)
    try:
        return pack_model(model, path, choice.kind, choice.threads, on_progress, cache)
    finally:
        if cache is not None:
            cache.close()


def runs_on_cpu() -> bool:
    """Whether mlx computes on the CPU, where other ways of doing things are the fast ones."""
    return mx.default_device().type == mx.DeviceType.cpu


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers an adapter may change, by path: Linear, plain or quantized."""
    kinds = (nn.Linear, nn.QuantizedLinear, PackedLinear)
    named = cast(list[tuple[str, nn.Module]], model.named_modules())
    return {path: module for path, module in named if isinstance(module, kinds)}


def linear_shapes(linears: dict[str, nn.Module]) -> dict[str, ModuleShape]:
    """In and out dimensions of each."""
    return {path: _shape_of(linear) for path, linear in linears.items()}


def _shape_of(linear: nn.Module) -> ModuleShape:
    if isinstance(linear, PackedLinear):
        return ModuleShape(linear.matrix.in_dims, linear.matrix.out_dims)
    out_dims, in_dims = cast(mx.array, linear["weight"]).shape
    if "scales" in linear:
        in_dims = in_dims * 32 // int(cast(Any, linear).bits)
    return ModuleShape(in_dims, out_dims)


def _refuse_missing_files(path: Path) -> None:
    try:
        check_weight_files(path)
    except WeightFilesError as error:
        raise BaseModelError(f"The model in {path} {error}") from error
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{path / INDEX} cannot be read: {_short(error)}") from error


def _refuse_without_tokens(tokenizer: TokenizerWrapper, path: Path) -> None:
    if not tokenizer.encode("a", add_special_tokens=False):
        raise BaseModelError(f"The model in {path} has no tokenizer; copy its tokenizer files too.")


def _drop_sources(tokenizer: TokenizerWrapper) -> None:
    """What transformers makes a fast tokenizer from and keeps in Python, 50 MB of Qwen's."""
    of_instance = vars(_hf_tokenizer(tokenizer))
    if "_tokenizer" in of_instance:  # the one that does the work, in Rust, with all of it inside
        for name in ("_vocab", "_merges"):
            of_instance.pop(name, None)


def _hf_tokenizer(wrapper: TokenizerWrapper) -> Tokenizer:
    return cast(Tokenizer, getattr(wrapper, "_tokenizer"))  # noqa: B009  no public name


def _recorded_context(config: dict[str, Any]) -> int:
    # Models that also see keep what concerns text one level down.
    for level in (config, config.get("text_config") or {}):
        if recorded := level.get("max_position_embeddings"):
            return int(recorded)
    return _UNRECORDED_CONTEXT


def _find(path_or_id: str, files: list[str] | None = None) -> tuple[Path, str]:
    """Where the model is on this disk, and the name to serve it under.

    What has to be downloaded is all that mlx-lm reads, or only `files`, as patterns.
    """
    path_or_id = located_model(path_or_id)
    path = Path(os.path.expanduser(path_or_id))  # noqa: PTH111  Path's own raises for unknown users
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise BaseModelError(f"{path} is not a model folder: it has no config.json.")
        return path, path.resolve().name
    if path.exists():
        raise BaseModelError(f"{path} is a file; --model wants a model folder.")
    if path_or_id.count("/") != 1 or path_or_id.startswith((".", "/", "~")):
        raise BaseModelError(
            f"There is no model folder {path_or_id!r}; "
            "give a folder or a Hugging Face id (OWNER/NAME)."
        )
    try:
        path = mlx_lm_utils._download(path_or_id, allow_patterns=files)  # pyright: ignore[reportPrivateUsage]
        return path, path_or_id
    except Exception as error:
        raise BaseModelError(
            f"There is no folder {path_or_id}, and Hugging Face did not give a model of that name: "
            f"{_short(error)}"
        ) from error


def _short(error: Exception) -> str:
    """The first line of an error; hubs and loaders append pages of advice."""
    if isinstance(error, KeyError):
        return f"{error} is missing."
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


def _for_cpu(model: nn.Module, num_parts: int = 1) -> nn.Module:
    """With float32 weights on a CPU, if those of this part fit; nothing is read yet."""
    return _as_float32(model) if runs_on_cpu() and _fits_as_float32(model, num_parts) else model


def _fits_as_float32(model: nn.Module, num_parts: int) -> bool:
    num_bytes = _num_parameters(model) * _FLOAT32_BYTES // num_parts
    return num_bytes <= MEMORY_SHARE * _memory_bytes()


def _num_parameters(model: nn.Module) -> int:
    """Numbers in the model, packed ones counted as what they stand for."""
    floats = (a.size for _, a in _arrays(model) if mx.issubdtype(a.dtype, mx.floating))
    modules = cast(list[Any], model.modules())
    packed = (m.weight.size * 32 // m.bits for m in modules if "scales" in m and hasattr(m, "bits"))
    return sum(floats) + sum(packed)


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _as_float32(model: nn.Module) -> nn.Module:
    model = mlx_lm_utils.dequantize_model(model)
    model.set_dtype(mx.float32)
    return model


def _activation_dtype(model: nn.Module) -> mx.Dtype:
    """Norms are never quantized, so their weights have the type the activations have."""
    norms = (a.dtype for name, a in _arrays(model) if "norm" in name)
    floats = (a.dtype for _, a in _arrays(model) if mx.issubdtype(a.dtype, mx.floating))
    return next(norms, next(floats, mx.float32))


def _bring_in(model: nn.Module, on_progress: Callable[[float], None]) -> None:
    """Evaluate the lazy weights in chunks."""
    arrays = [array for _, array in _arrays(model)]
    total = sum(array.nbytes for array in arrays)
    chunk: list[mx.array] = []
    done = 0
    for array in arrays:
        chunk.append(array)
        if sum(a.nbytes for a in chunk) >= _EVAL_BYTES:
            mx.eval(chunk)  # pyright: ignore[reportUnknownMemberType]
            done += sum(a.nbytes for a in chunk)
            chunk = []
            on_progress(done / total)
    mx.eval(chunk)  # pyright: ignore[reportUnknownMemberType]
    on_progress(1.0)


def _arrays(model: nn.Module) -> list[tuple[str, mx.array]]:
    return cast(list[tuple[str, mx.array]], tree_flatten(model.parameters()))


def _read_generation_config(path: Path) -> dict[str, Any]:
    try:
        return cast(
            dict[str, Any], json.loads((path / "generation_config.json").read_text("utf-8"))
        )
    except (OSError, ValueError):
        return {}
