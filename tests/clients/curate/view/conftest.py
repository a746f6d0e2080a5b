"""A screen of its own for the tests: Xvfb with a window manager, and hands on its keyboard."""

import os
import shutil
import subprocess
import sys
import time
import tkinter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.clients.curate.conftest import make_session
from verse.decision_journal import open_journal, read_journal
from verse.records import JournalEntry
from verse_clients.curate.app import CurationApp
from verse_clients.curate.keymap import Keymap
from verse_clients.curate.store import WindowState, state_file
from verse_clients.curate.view.main_window import MainWindow

PROGRAMS = ("Xvfb", "openbox", "xdotool")
VERSE = "import sys; from verse.cli import main; sys.exit(main(['curate', *sys.argv[1:]]))"
HOLD_CLIPBOARD = """
import sys, tkinter
root = tkinter.Tk()
root.withdraw()
root.clipboard_append(sys.argv[1])
root.update()
print("held", flush=True)
root.mainloop()
"""
PATIENCE_SECONDS = 45
SETTLE_SECONDS = 2


def wait_until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, f"waited in vain for: {what}"
        time.sleep(0.02)


class Screen:
    """An X display and what a person could do at it."""

    def __init__(self, display: str) -> None:
        self.display = display
        self.environment = {**os.environ, "DISPLAY": display}

    def run(self, *command: str, text: str | None = None) -> str:
        result = subprocess.run(
            command, env=self.environment, input=text, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, timeout=PATIENCE_SECONDS, check=False,
        )  # fmt: skip
        return result.stdout.strip()

    def keys(self, *names: str, delay_ms: int = 25) -> None:
        self.run("xdotool", "key", "--clearmodifiers", "--delay", str(delay_ms), *names)

    def type(self, text: str) -> None:
        self.run("xdotool", "type", "--delay", "60", text)

    @contextmanager
    def clipboard(self, text: str) -> Generator[None]:
        """Hold a text for pasting, as the program it was copied from would."""
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD_CLIPBOARD, text],
            env=self.environment, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield
        holder.kill()
        holder.communicate()


@pytest.fixture(scope="session")
def screen() -> Iterator[Screen]:
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"NOT TESTED, missing: {', '.join(missing)}; "
            "apt-get install xvfb openbox xdotool fonts-arphic-uming")  # fmt: skip
    read_end, write_end = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write_end), "-screen", "0", "1280x900x24", "-nolisten", "tcp"],
        pass_fds=[write_end], stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(write_end)
    with os.fdopen(read_end) as stream:
        number = stream.readline().strip()
    screen = Screen(f":{number}")
    manager = subprocess.Popen(
        ["openbox", "--sm-disable"], env=screen.environment, stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    wait_until(lambda: screen.run("xdotool", "get_num_desktops").isdigit(), "the window manager")
    yield screen
    for process in (manager, server):
        process.terminate()
        process.wait(60)


class App:
    """`verse curate` as a process of its own."""

    def __init__(self, screen: Screen, poems: Path, *options: str) -> None:
        self.screen = screen
        self.journal = poems.with_name("decisions.jsonl")
        begin = time.time()
        self.process = subprocess.Popen(
            [sys.executable, "-c", VERSE, str(poems), "--appearance", "light", *options],
            env=screen.environment, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.window = ""
        try:
            wait_until(self._is_up, "the window")
            self._let_it_settle(begin)
        except BaseException:
            self.kill()  # nobody else knows of it yet
            raise

    def entries(self) -> list[JournalEntry]:
        return read_journal(self.journal)

    def wait_for(self, count: int) -> list[JournalEntry]:
        with suppress(AssertionError):
            wait_until(lambda: len(self.entries()) >= count, f"{count} entries")
        entries = self.entries()
        assert len(entries) >= count, entries
        return entries

    def geometry(self) -> str:
        text = self.screen.run("xdotool", "getwindowgeometry", self.window)
        return text.partition("\n")[2]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=PATIENCE_SECONDS)
        return self.process.returncode, errors

    def _let_it_settle(self, begin: float) -> None:
        """Until it has kept its place, which its event loop does first; not long if it cannot."""
        place, end = state_file(self.journal), time.monotonic() + SETTLE_SECONDS
        while not (place.exists() and place.stat().st_mtime >= begin) and time.monotonic() < end:
            time.sleep(0.02)

    def _is_up(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()[1]
        found = self.screen.run("xdotool", "search", "--onlyvisible", "--name", "^Verse")
        self.window = found.split("\n")[0]
        return bool(self.window) and self.screen.run("xdotool", "getwindowfocus") == self.window


StartApp = Callable[..., App]


@pytest.fixture
def start_app(screen: Screen) -> Iterator[StartApp]:
    apps: list[App] = []

    def start(poems: Path, *options: str) -> App:
        apps.append(App(screen, poems, *options))
        return apps[-1]

    yield start
    for app in apps:
        if app.process.stderr is not None and not app.process.stderr.closed:
            app.kill()


class Bench:
    """The main window inside the test's own process."""

    def __init__(self, root: tkinter.Tk, window: MainWindow, errors: list[BaseException]) -> None:
        self.root, self.window, self.errors = root, window, errors

    def settle(self, condition: Callable[[], object] = lambda: True) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        self.root.update()
        while not condition():
            assert time.monotonic() < end, "the window never came to it"
            time.sleep(0.01)
            self.root.update()
        self.root.update()

    def wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.settle(lambda: time.monotonic() > end)

    @property
    def banner(self) -> str:
        shown = self.window.banner.winfo_ismapped()
        return str(self.window.banner.cget("text")) if shown else ""

    @property
    def poem(self) -> str:
        """What the page shows, without the theme."""
        return self.window.page.text.get("2.0", "end-1c")


MakeBench = Callable[..., Bench]


@pytest.fixture
def make_bench(screen: Screen, tmp_path: Path) -> Iterator[MakeBench]:
    with bench_maker(screen, tmp_path) as make:
        yield make


@contextmanager
def bench_maker(screen: Screen, folder: Path) -> Generator[MakeBench]:
    made: list[Bench] = []

    def make(items: object = 6, percent: int = 100, state: WindowState | None = None) -> Bench:
        folder.mkdir(exist_ok=True)
        store = open_journal(folder / f"decisions{len(made) or ''}.jsonl")
        session = make_session(items, store.entries, store.write, state)  # pyright: ignore
        app = CurationApp(session, store, Keymap(), state or WindowState())
        root = tkinter.Tk(screenName=screen.display)
        errors: list[BaseException] = []
        window = MainWindow(root, app, appearance="light", type_percent=percent)
        root.report_callback_exception = lambda _k, error, _t: errors.append(error)
        bench = Bench(root, window, errors)
        made.append(bench)
        bench.settle(lambda: root.winfo_viewable() and window.top.winfo_width() > 1)
        return bench

    yield make
    for bench in made:
        bench.window.app.journal.close()
        bench.window.stop()
        assert bench.errors == []
