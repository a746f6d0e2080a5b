"""What goes on beside the keys goes on, whatever one turn or one message does."""

import threading
import tkinter

import pytest

from tests.clients.curate.view.conftest import MakeBench
from verse_clients.curate.view.background import repeat

pytestmark = pytest.mark.gui


def fail(_: object = None) -> None:
    raise ValueError("a fault of ours")


def test_a_message_that_raises_stops_none_of_those_behind_it(make_bench: MakeBench) -> None:
    bench = make_bench(3)
    got: list[str] = []
    background = bench.window.background

    def send() -> None:
        for number in range(3):
            background.deliver(fail)(None)
            background.deliver(got.append)(str(number))

    thread = threading.Thread(target=send)
    thread.start()
    thread.join()
    bench.settle(lambda: len(got) == 3)
    background.deliver(got.append)("later")
    bench.settle(lambda: got[3:] == ["later"])
    assert [str(error) for error in bench.errors] == ["a fault of ours"] * 3
    bench.errors.clear()


def test_a_disk_that_cannot_even_be_asked_is_asked_again(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verse_clients.curate.view.main_window._RETRY_MS", 10)
    bench = make_bench(3)
    store = bench.window.app.journal
    tries: list[int] = []

    def retry() -> bool:
        tries.append(len(tries))
        if len(tries) < 3:
            fail()
        return True

    monkeypatch.setattr(store, "retry", retry)
    monkeypatch.setattr(type(store), "num_waiting", property(lambda _: 1))
    bench.settle(lambda: len(tries) >= 4)
    monkeypatch.undo()
    assert len(bench.errors) == 2
    bench.errors.clear()


def test_a_poem_that_cannot_be_looked_at_keeps_no_other_from_it(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(3)
    inspector = bench.window.app.inspector
    looked_at: list[str] = []

    def flags(items: list[object]) -> list[object]:
        if not looked_at:
            looked_at.append("")
            fail()
        looked_at.append(getattr(items[0], "id", ""))
        return []

    bench.settle(lambda: not bench.window.actions._is_inspecting)  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(inspector, "findings", flags)
    items = bench.window.session.items
    bench.window.actions.inspect(items)
    bench.settle(lambda: looked_at[1:] == [item.id for item in items[1:]])
    bench.window.actions.inspect(items[:1])
    bench.settle(lambda: looked_at[3:] == [items[0].id])
    assert len(bench.errors) == 1
    bench.errors.clear()


def test_what_is_repeated_ends_with_its_window(make_bench: MakeBench) -> None:
    bench = make_bench(3)
    sheet = tkinter.Toplevel(bench.root)
    turns: list[int] = []

    def close() -> None:
        turns.append(1)
        sheet.destroy()

    repeat(sheet, 1, close)
    bench.settle(lambda: turns)
    bench.wait(0.1)
    assert turns == [1]
