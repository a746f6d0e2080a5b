"""transformers knows the same names, and reads its files once for them."""

import subprocess
import sys

NAMES = """
import verse.base_model
import importlib.util
from pathlib import Path
from transformers.utils import import_utils

folder = Path(import_utils.__file__).parents[1] / "models"
spec = importlib.util.spec_from_file_location("transformers.utils.unchanged", import_utils.__file__)
unchanged = importlib.util.module_from_spec(spec)
spec.loader.exec_module(unchanged)
for path, prefix in ((folder, "models"), (str(folder / "__init__.py"), None)):
    names = import_utils.define_import_structure.__wrapped__(path, prefix)
    assert names == unchanged.define_import_structure(path, prefix)
    assert sum(map(len, names.values())) > 1000
cache = import_utils.create_import_structure_from_path.cache_info()
assert cache.misses < 1.1 * cache.currsize, f"read anew: {cache}"
"""


def test_the_names_in_transformers_are_those_of_the_library_and_nothing_is_read_twice() -> None:
    ran = subprocess.run([sys.executable, "-c", NAMES], check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
