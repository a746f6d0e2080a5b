"""A server with jobs over a fake engine and the fake trainer: `serve_jobs.py FOLDER`."""

import importlib
import sys
from pathlib import Path

from verse_server.acceptor import bind
from verse_server.config import EngineConfig, ServerConfig
from verse_server.jobs import trainer_process
from verse_server.serving import run
from verse_server.state.folder import ServerState

_HERE = Path(__file__).parent


def main(folder: Path) -> int:
    sys.path.insert(0, str(_HERE.parent / "api"))
    engine = importlib.import_module("fake_engine").FakeEngine()
    command = (sys.executable, str(_HERE / "fake_trainer.py"))
    setattr(trainer_process, "_COMMAND", command)  # noqa: B010
    adapters = folder / "adapters"
    adapters.mkdir(exist_ok=True)
    config = ServerConfig(engine=EngineConfig(adapters=adapters), jobs=True, store=False)
    state = ServerState(config.state_folder)
    with bind("127.0.0.1", 0) as sock:
        print(f"http://127.0.0.1:{sock.getsockname()[1]}", flush=True)  # noqa: T201
        return run(engine, config, sock, state)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
