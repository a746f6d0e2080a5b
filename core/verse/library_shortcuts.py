"""Quicker ways through transformers and mlx-lm, which every process takes that loads a model.

When it is imported, transformers reads its three thousand files to know which of them has which
class. It does so once more with its models, because what it remembers has room for 128 of its 560
folders; and it divides each file into lines to find one. That is 0.4 s. Here it remembers all, and
is shown the end of a file alone: the names are the same.

When a tokenizer is loaded, each of the two parses a file of megabytes, mlx-lm for one key of it;
and mlx-lm lists the vocabulary three times, to see whether a few tokens are there and to name one
at a time later. Of a vocabulary of 150,000 that is half of the time that loading takes. Here the
file is parsed by msgspec, and the tokenizer is asked for single tokens: what comes of it is equal.
"""

import json
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from types import ModuleType
from typing import Any, cast

import msgspec

_NAMES = "transformers.utils.import_utils"


def quicken_import() -> None:
    """Prepare the import of transformers; of no effect once it is there."""
    if _NAMES not in sys.modules and not any(isinstance(one, _Finder) for one in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds one module, as it would be found without it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _NAMES:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None or not isinstance(spec.loader, SourceFileLoader):
            return spec
        loader = _Loader(fullname, spec.origin)
        return spec_from_file_location(fullname, spec.origin, loader=loader)


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        _replace(module)


def _replace(module: Any) -> None:
    """Put the quicker functions in place, where this version of the library has the slow ones."""
    read: Any = getattr(module, "create_import_structure_from_path", None)
    if hasattr(read, "cache_parameters"):
        module.create_import_structure_from_path = cache(read.__wrapped__)
    if find := getattr(module, "fetch__all__", None):
        module.fetch__all__ = _of_the_end(find)


def _of_the_end(find: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    """Find the last `__all__` of a file; the library looks at all lines for it."""

    def find_in_the_end(file_content: str) -> list[str]:
        return find(file_content[file_content.rfind("\n__all__") + 1 :])

    return find_in_the_end


_MLX_LM = "mlx_lm.tokenizer_utils"
_TRANSFORMERS = "transformers.tokenization_utils_tokenizers"
_THAT_ASK = ("_infer_thinking", "_infer_structural_markers", "_infer_tool_parser")
"""Functions of mlx-lm that look for a few tokens."""
_DETOKENIZER = "BPEStreamingDetokenizer"
_WAYS = ("get_vocab", "convert_ids_to_tokens")
"""Methods of a tokenizer that list its vocabulary."""


@contextmanager
def quicker_tokenizers() -> Generator[None]:
    """Load tokenizers in this block so; both libraries have been imported before."""
    replaced: list[tuple[Any, str, Any]] = []

    def replace(library: Any, name: str, make: Callable[[Any], Any]) -> None:
        if hasattr(library, name):
            replaced.append((library, name, getattr(library, name)))
            setattr(library, name, make(getattr(library, name)))

    mlx_lm, transformers = sys.modules.get(_MLX_LM), sys.modules.get(_TRANSFORMERS)
    replace(transformers, "json", lambda _: _Json(msgspec.json.decode))
    replace(mlx_lm, "json", lambda _: _Json(_decoder_alone))
    plain = getattr(mlx_lm, "PreTrainedTokenizerFast", None)
    for name in (*_THAT_ASK, _DETOKENIZER):
        replace(mlx_lm, name, lambda given: _shown(given, plain))
    try:
        yield
    finally:
        for library, name, before in reversed(replaced):
            setattr(library, name, before)


class _Json:
    """The module json, but for how a file is read."""

    def __init__(self, decode: Callable[[str], Any]) -> None:
        self._decode = decode

    def load(self, file: Any) -> Any:
        text = file.read()
        try:
            return self._decode(text)
        except (ValueError, RecursionError):  # stricter than json, which also has its own errors
            return json.loads(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(json, name)


class _TokenizerFile(msgspec.Struct, omit_defaults=True):
    decoder: Any = msgspec.UNSET


def _decoder_alone(text: str) -> Any:
    """All that mlx-lm looks at in a tokenizer's file."""
    return msgspec.to_builtins(msgspec.json.decode(text, type=_TokenizerFile))


def _shown(function: Callable[[Any], Any], plain: Any) -> Callable[[Any], Any]:
    """A function that is shown tokenizers in our way, where their own ways are those of `plain`."""

    def shown(tokenizer: Any) -> Any:
        kind = cast(Any, type(tokenizer))
        is_plain = plain is not None and all(
            getattr(kind, name, None) is getattr(plain, name) for name in _WAYS
        )
        return function(_AskedTokenizer(tokenizer) if is_plain else tokenizer)

    return shown


class _AskedTokenizer:
    """A tokenizer that lists nothing."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def get_vocab(self) -> "_Vocabulary":
        return _Vocabulary(self._tokenizer.backend_tokenizer)

    def convert_ids_to_tokens(self, tokens: Sequence[int]) -> "_TokenNames":
        """Of all tokens from the first on."""
        return _TokenNames(self._tokenizer.backend_tokenizer, len(tokens))


class _Vocabulary:
    """Tokens by name."""

    def __init__(self, rust: Any) -> None:
        self._rust = rust

    def __contains__(self, name: str) -> bool:
        return self._rust.token_to_id(name) is not None

    def __getitem__(self, name: str) -> int:
        if (token := self._rust.token_to_id(name)) is None:
            raise KeyError(name)
        return token


class _TokenNames(Sequence[str | None]):
    """Names of tokens; None of one that is not used."""

    def __init__(self, rust: Any, num_tokens: int) -> None:
        self._rust, self._num_tokens = rust, num_tokens

    def __len__(self) -> int:
        return self._num_tokens

    def __getitem__(self, token: Any) -> Any:
        if token >= self._num_tokens:
            raise IndexError(token)
        return self._rust.id_to_token(token)
