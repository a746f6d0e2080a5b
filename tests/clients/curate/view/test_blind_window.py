"""What the windows show while the poet reads blind, widget by widget."""

import random
import tkinter
from collections.abc import Iterator
from pathlib import Path
from tkinter import ttk

import pytest

from tests.clients.curate.blindness import Hidden, ranked_file
from tests.clients.curate.view.conftest import Bench, MakeBench, Screen, bench_maker
from verse.records import Candidate, Decision
from verse.replay import is_blind
from verse_clients.curate.more import Written
from verse_clients.curate.order import default_order
from verse_clients.curate.store import WindowState
from verse_clients.curate.view.find_bar import FindBar
from verse_clients.curate.view.pairs_window import PairsWindow
from verse_clients.curate.view.widgets import _HINTS  # pyright: ignore[reportPrivateUsage]

pytestmark = pytest.mark.gui

NAMES = ("xuzhimo", "hushi", "score", "rank")


def widgets(parent: tkinter.Misc) -> Iterator[tkinter.Misc]:
    yield parent
    for child in parent.winfo_children():
        yield from widgets(child)


def words(bench: Bench) -> list[str]:
    """Every word of every window, in view or not: titles, texts, lists, tables, plots and hints."""
    found: list[str] = []
    for widget in widgets(bench.root):
        if isinstance(widget, (tkinter.Tk, tkinter.Toplevel)):
            found.append(widget.title())
        if isinstance(widget, tkinter.Text):
            found.append(widget.get("1.0", "end"))
        if isinstance(widget, ttk.Combobox):
            found += [widget.get(), *map(str, widget.cget("values"))]
        elif isinstance(widget, ttk.Entry):
            found.append(widget.get())
        if isinstance(widget, ttk.Treeview):
            found += [str(widget.item(row, "values")) for row in widget.get_children()]
        if isinstance(widget, tkinter.Canvas):
            found += [widget.itemcget(item, "text") for item in widget.find_all()
                      if str(widget.type(item)) == "text"]  # fmt: skip
        if "text" in widget.keys():  # noqa: SIM118
            found.append(str(widget.cget("text")))
    found += [str(hint._tip.msg) for hint in _HINTS]  # pyright: ignore[reportPrivateUsage]
    return found


ATTRIBUTES = [
    Hidden(adapter, checkpoint, 5 - rank / 4, rank, rank / 10)
    for rank, (adapter, checkpoint) in enumerate(
        [("xuzhimo", 60), ("hushi", 80), ("xuzhimo", 80), (None, None)] * 3, 1
    )
]
ACTIONS = (
    "accept", "reject", "jump", "edit", "statistics", "pairs", "skip", "stars_3", "find", "help",
    "type", "previous", "accept", "undo", "export", "blind", "blind", "accept", "more",
)  # fmt: skip


class NoServer:
    """Refuses by the model's name."""

    def ask(self, like: object, report: object) -> bool:
        source = getattr(like, "source", "")
        report(Written("雨", problem=f"No server has a model {source!r}."))  # pyright: ignore
        return True


def look(bench: Bench) -> list[list[str]]:
    """All words after every action."""
    bench.window.app.more = NoServer()  # pyright: ignore
    bench.settle(lambda: any(bench.window.session.flags(i.id) for i in bench.window.session.items))
    bench.settle(lambda: not bench.window.actions._is_inspecting)  # pyright: ignore[reportPrivateUsage]
    seen: list[list[str]] = []
    for action in ACTIONS:
        bench.window.actions.run(action)
        if bench.window.is_editing:
            seen.append(words(bench))
            bench.window.editor.save()
        for sheet in bench.root.winfo_children():
            if isinstance(sheet, PairsWindow):
                sheet._rng = random.Random(0)  # pyright: ignore[reportPrivateUsage]
                sheet._next()  # pyright: ignore[reportPrivateUsage]
                sheet.answer("left")
        bench.wait(0.15)
        if bench.window.session.blind:
            seen.append(words(bench))
    return seen


def test_the_same_poems_with_attributes_exchanged_show_the_same_words(
    screen: Screen, tmp_path: Path
) -> None:
    seen: list[list[list[str]]] = []
    exchanged = random.Random(4).sample(ATTRIBUTES, len(ATTRIBUTES))
    for attributes in (ATTRIBUTES, exchanged):
        items = ranked_file(attributes)
        state = WindowState(order=default_order(items), seed=7)
        with bench_maker(screen, tmp_path / str(len(seen))) as make:
            seen.append(look(make(items, state=state)))
    folders = [str(tmp_path / name) for name in ("0", "1")]
    plain = [[[word.replace(folder, "") for word in view] for view in views]
             for folder, views in zip(folders, seen, strict=True)]  # fmt: skip
    assert len(plain[0]) == len(plain[1]) >= len(ACTIONS)
    for one, other in zip(*plain, strict=True):
        assert one == other
        assert not [word for word in one if any(f" {name}" in f" {word}" for name in NAMES[:2])]


def test_figures_by_source_and_adapters_are_there_only_while_sources_are(
    make_bench: MakeBench,
) -> None:
    items = ranked_file(ATTRIBUTES)
    bench = make_bench(items, state=WindowState(order="shuffle", seed=7))
    bench.window.actions.run("accept")
    bench.window.actions.run("find")
    bench.window.actions.run("statistics")
    bench.settle()
    said = "\n".join(words(bench))
    assert "Statistics by source are hidden while you read blind." in said
    assert not [name for name in NAMES[:2] if name in said]
    bench.window.actions.run("blind")
    bench.window.actions.run("statistics")
    bench.settle()
    [table] = [w for w in widgets(bench.root) if isinstance(w, ttk.Treeview)]
    assert len(table.get_children()) == 2
    [bar] = [w for w in widgets(bench.root) if isinstance(w, FindBar)]
    said = "\n".join(words(bench))
    assert "xuzhimo" in said
    assert "rank " in said
    bench.window.actions.run("blind")
    bench.settle()
    assert bar.winfo_exists()
    said = "\n".join(words(bench))
    assert not [name for name in NAMES[:2] if name in said]


def test_the_window_says_when_an_order_is_not_blind_and_records_it(make_bench: MakeBench) -> None:
    bench = make_bench(ranked_file(ATTRIBUTES), state=WindowState(order="shuffle", seed=7))
    bench.window.actions.run("accept")
    bench.window.actions.order("score")
    bench.settle()
    assert any("not blind: this order follows scores or sources" in word for word in words(bench))
    bench.window.actions.run("accept")
    entries = [e for e in bench.window.session.replay.entries if isinstance(e, Decision)]
    assert [(is_blind(entry), entry.order) for entry in entries] == [
        (True, "shuffle"), (False, "score"),
    ]  # fmt: skip


def test_poems_of_a_model_asked_for_by_name_are_not_decided_blind(make_bench: MakeBench) -> None:
    bench = make_bench(3)
    fresh = Candidate(theme="雨", text="新写的雨", sample=99)
    bench.window.background.deliver(bench.window.actions._take_more)(  # pyright: ignore[reportPrivateUsage]
        Written("雨", [fresh], by_name=True)
    )
    bench.settle(lambda: len(bench.window.session.items) == 4)
    bench.window.actions.run("accept")
    bench.window.actions.run("accept")
    entries = [e for e in bench.window.session.replay.entries if isinstance(e, Decision)]
    assert [is_blind(entry) for entry in entries] == [True, False]
