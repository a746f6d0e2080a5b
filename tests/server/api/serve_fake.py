"""`verse serve` over a FakeEngine, as a process of its own: `serve_fake.py JSON`.

JSON: `{"engine": {...FakeEngine's arguments}}`, and either `"cli": [...]` for the whole command or
`"config": {...}` for `serving.run` alone, with `"grace_seconds"` in place of the usual ones.
SIGUSR1 kills the engine.
"""

import json
import signal
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

from fake_engine import FakeEngine


class _MlxEngine:
    """Stands where the real one would be imported from."""

    made: FakeEngine

    @classmethod
    def start(cls, _config: object, on_progress: Callable[[float], None]) -> FakeEngine:
        on_progress(0.5)
        on_progress(1.0)
        return cls.made


def main(spec: dict[str, Any]) -> None:
    engine = FakeEngine(**spec["engine"])
    _die_on_signal(engine)
    if "cli" in spec:
        _run_command(engine, spec["cli"])
    else:
        _run_serving(engine, spec["config"], spec.get("grace_seconds"))


def _die_on_signal(engine: FakeEngine) -> None:
    def die(_number: int, _frame: object) -> None:
        threading.Thread(target=engine.die).start()

    signal.signal(signal.SIGUSR1, die)


def _run_command(engine: FakeEngine, arguments: list[str]) -> None:
    module = ModuleType("verse_server.engine.engine")
    _MlxEngine.made = engine
    module.__dict__["MlxEngine"] = _MlxEngine
    sys.modules[module.__name__] = module
    from verse.cli import main as run_verse

    sys.exit(run_verse(["serve", *arguments]))


def _run_serving(engine: FakeEngine, config: dict[str, Any], grace_seconds: float | None) -> None:
    from verse_server import serving
    from verse_server.acceptor import bind
    from verse_server.config import ServerConfig

    if grace_seconds is not None:
        serving._GRACE_SECONDS = grace_seconds  # pyright: ignore[reportPrivateUsage]
    with bind("127.0.0.1", 0) as sock:
        print(f"address http://127.0.0.1:{sock.getsockname()[1]}/v1", flush=True)  # noqa: T201
        sys.exit(serving.run(engine, ServerConfig(**config), sock))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
