"""The tests that assert a time: `pytest -m perf` over the whole tree, or over what is named.

    uv run python -m benchmarks.limits [tests/e2e ...]

`uv run pytest` leaves them out. Nothing else should run on the machine meanwhile.
"""

import os
import sys
from collections.abc import Sequence

import pytest

_BUSY = 1.0
"""A load average above this says that something else runs."""


def main(arguments: Sequence[str]) -> int:
    """Run them and show how long each took.

    Returns:
        pytest's exit code: 0 if every limit is kept.
    """
    load = os.getloadavg()[0]
    if load > _BUSY:
        print(f"warning: the load average is {load:.1f}; on a busy machine these tests may fail.")
    return pytest.main(["-m", "perf", "--durations=0", *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
