"""A quicker import of transformers, which mlx-lm needs for the tokenizer.

When it is imported, transformers reads its three thousand files to know which of them has which
class. It does so once more with its models, because what it remembers has room for 128 of its 560
folders; and it divides each file into lines to find one. That is 0.4 s of every process that loads
a model. Here it remembers all, and is shown the end of a file alone: the names are the same.
"""

import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from types import ModuleType
from typing import Any

_NAMES = "transformers.utils.import_utils"


def quicken() -> None:
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
