"""The main window in the test's own process: what it shows, and that nothing is cut off."""

import statistics
import time
import tkinter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tkinter import ttk

import pytest

from tests.clients.curate.conftest import make_items
from tests.clients.curate.view.conftest import Bench, MakeBench, Screen
from verse.decision_journal import read_journal
from verse.records import Candidate
from verse_clients.curate.more import Written
from verse_clients.curate.queue import Filter
from verse_clients.curate.store import WindowState
from verse_clients.curate.view.dialogs import TypeWindow
from verse_clients.curate.view.pairs_window import PairsWindow
from verse_clients.curate.view.statistics_window import StatisticsWindow
from verse_clients.curate.view.theme import DARK, LIGHT
from verse_clients.curate.view.widgets import Dialog
from verse_clients.decisions.sources import Item
from verse_clients.screening import Finding

pytestmark = pytest.mark.gui

CONTROLS = (ttk.Button, ttk.Entry, ttk.Combobox, ttk.Radiobutton, ttk.Label)


def widgets(parent: tkinter.Misc) -> Iterator[tkinter.Widget]:
    for child in parent.winfo_children():
        if isinstance(child, tkinter.Widget):
            yield child
        yield from widgets(child)


def sheets(root: tkinter.Misc) -> list[Dialog]:
    return [child for child in root.winfo_children() if isinstance(child, Dialog)]


def clipped(window: tkinter.Tk | tkinter.Toplevel) -> list[str]:
    """Controls that stand out of their window or have less room than they ask for."""
    left, top = window.winfo_rootx(), window.winfo_rooty()
    right, bottom = left + window.winfo_width(), top + window.winfo_height()
    found: list[str] = []
    for widget in widgets(window):
        if not isinstance(widget, CONTROLS) or not widget.winfo_viewable():
            continue
        if widget.winfo_toplevel() is not window:
            continue
        x, y = widget.winfo_rootx(), widget.winfo_rooty()
        inside = x >= left and y >= top
        inside &= x + widget.winfo_width() <= right
        # What lies on a canvas scrolls up and down, not sideways.
        inside &= y + widget.winfo_height() <= bottom or "canvas" in str(widget)
        roomy = widget.winfo_width() >= widget.winfo_reqwidth()
        roomy &= widget.winfo_height() >= widget.winfo_reqheight()
        if not (inside and roomy):
            found.append(f"{widget} {widget.winfo_geometry()} needs {widget.winfo_reqwidth()}")
    return found


def assert_nothing_is_cut_off(bench: Bench, window: tkinter.Tk | tkinter.Toplevel) -> None:
    """Once the window has laid itself out, however long that takes."""
    bench.wait(0.15)
    with suppress(AssertionError):
        bench.settle(lambda: not clipped(window))
    assert clipped(window) == []


def controls(window: tkinter.Misc) -> int:
    return sum(isinstance(w, CONTROLS) and w.winfo_viewable() for w in widgets(window))


@pytest.mark.parametrize("percent", [100, 200])
def test_no_button_is_cut_off_at_1024_by_700(make_bench: MakeBench, percent: int) -> None:
    bench = make_bench(12, percent)
    root, window = bench.root, bench.window
    root.geometry("1024x700+0+0")
    bench.settle(lambda: root.winfo_width() == 1024)
    other = bench.window.session.items[1].id
    window.session.add_flags([(window.session.items[0].id, Finding("near", other, ratio=0.9))])
    window.refresh()
    bench.settle(lambda: controls(root) >= 20)
    line = window.looks.fonts["VersePoem"].metrics("linespace")
    assert_nothing_is_cut_off(bench, root)
    assert window.page.winfo_height() > 3 * line
    window.actions.run("find")
    assert_nothing_is_cut_off(bench, root)
    window.close_find()
    window.open_editor()
    assert_nothing_is_cut_off(bench, root)
    assert window.editor.text.winfo_height() > 100
    window.close_editor()


@pytest.mark.parametrize("percent", [100, 200])
@pytest.mark.parametrize("action", ["pairs", "statistics", "type", "help"])
def test_no_button_of_the_other_windows_is_cut_off(
    make_bench: MakeBench, action: str, percent: int
) -> None:
    bench = make_bench(12, percent)
    bench.root.geometry("1024x700+0+0")
    bench.window.actions.run("accept")
    bench.window.actions.run(action)
    bench.window.actions.run(action)  # it is brought to the front, not opened twice
    [sheet] = sheets(bench.root)
    sheet.geometry("1024x700+0+0")
    assert_nothing_is_cut_off(bench, sheet)
    assert sheet.winfo_width() <= 1024
    sheet.close()
    assert sheets(bench.root) == []


def test_the_poem_stands_in_the_middle_with_its_own_lines(make_bench: MakeBench) -> None:
    text = "雨\n    像一封没有署名的信\n\n灯"
    bench = make_bench([Item(candidate=Candidate(theme="雨", text=text))])
    assert bench.poem == text
    page = bench.window.page.text
    box = page.bbox("3.4")
    first = page.bbox("2.0")
    assert box
    assert first
    widest = page.dlineinfo("3.0")
    assert widest
    middle = widest[0] + widest[2] / 2
    assert abs(middle - page.winfo_width() / 2) < 3
    assert first[0] == widest[0]


@pytest.mark.parametrize(
    "text",
    ["🌧️下着👨‍👩‍👧雨", "𠮷野家𪚥", "\u200b零\tA\u0301", "a" * 3000, "\n".join(["山"] * 200)],
    ids=["emoji", "rare", "odd", "one long line", "200 lines"],
)
def test_odd_poems_are_shown_and_edited_as_they_are(make_bench: MakeBench, text: str) -> None:
    bench = make_bench([Item(candidate=Candidate(theme="雨", text=text))])
    assert bench.poem == text
    bench.window.open_editor()
    bench.settle()
    bench.window.editor.save()
    [decision] = bench.window.session.replay.verdicts()
    assert decision.action == "accept"


def test_a_long_poem_scrolls_by_keys(make_bench: MakeBench) -> None:
    text = "\n".join(f"第{number}行" for number in range(200))
    bench = make_bench([Item(candidate=Candidate(theme="雨", text=text))])
    bench.window.actions.on_key("space")
    assert bench.window.page.text.bbox("2.0") is None
    for _ in range(60):
        bench.window.actions.on_key("Next")
    assert bench.window.page.text.bbox("end-1c") is not None


def test_a_wide_poem_scrolls_by_keys(make_bench: MakeBench) -> None:
    bench = make_bench([Item(candidate=Candidate(theme="雨", text="字" * 400))])
    assert bench.window.page.text.bbox("2.0") is not None
    bench.window.actions.on_key("Shift+Right")
    bench.settle()
    left = bench.window.page.text.bbox("2.0")
    assert left is None or left[0] < 0


def test_the_difference_marks_what_came_and_what_went(make_bench: MakeBench) -> None:
    bench = make_bench([Item(candidate=Candidate(theme="雨", text="雨落在屋檐"))])
    bench.window.open_editor("雨停在屋檐下")
    bench.settle()
    changes = bench.window.editor.changes
    marked = {
        tag: [changes.get(*changes.tag_ranges(tag)[at : at + 2])
              for at in range(0, len(changes.tag_ranges(tag)), 2)]
        for tag in ("deleted", "inserted")
    }  # fmt: skip
    assert marked == {"deleted": ["落"], "inserted": ["停", "下"]}
    bench.window.close_editor()
    assert list(bench.window.session.replay.verdicts()) == []


def test_an_empty_edit_is_refused_and_stays_open(make_bench: MakeBench) -> None:
    bench = make_bench(3)
    bench.window.open_editor()
    bench.window.editor.text.delete("1.0", "end")
    bench.window.editor.save()
    bench.settle()
    assert bench.window.is_editing
    assert "empty poem" in bench.banner
    assert bench.window.session.replay.entries == []
    bench.window.close_editor()


def test_a_draft_survives_the_end_of_the_program(make_bench: MakeBench) -> None:
    state = WindowState(poem=make_items(3)[1].id, draft_of=make_items(3)[1].id, draft="改到一半")
    bench = make_bench(3, state=state)
    assert bench.window.is_editing
    assert bench.window.editor.text.get("1.0", "end-1c") == "改到一半"
    bench.window.close_editor()


def test_sources_show_when_asked_and_not_before(make_bench: MakeBench) -> None:
    bench = make_bench(make_items(6, mixed=True))

    def seen() -> str:
        return " ".join(
            str(w.cget("text"))
            for w in widgets(bench.root)
            if isinstance(w, (ttk.Label, ttk.Button)) and w.winfo_viewable()
        )

    bench.settle()
    assert "xuzhimo" not in seen()
    bench.window.actions.run("blind")
    assert "xuzhimo@60" in seen()
    bench.window.actions.run("blind")
    assert "xuzhimo" not in seen()
    bench.window.actions.run("accept")
    assert "第0首 · u to undo" in seen()
    assert "xuzhimo" not in seen()
    assert "hushi" not in seen()


def test_a_near_duplicate_is_one_key_away_and_the_same_key_comes_back(
    make_bench: MakeBench,
) -> None:
    items = [
        Item(candidate=Candidate(theme="雨", text=text), number=number)
        for number, text in enumerate(("雨落在屋檐像信", "河不回头", "雨落在屋檐，像信。"), 1)
    ]
    bench = make_bench(items)
    session = bench.window.session
    bench.settle(lambda: session.flags(items[0].id))
    bench.window.actions.on_key("d")
    assert session.current is not None
    assert session.current.item.number == 3
    bench.window.actions.on_key("d")
    assert session.current.item.number == 1


def test_the_key_stands_on_the_first_badge_that_it_can_follow(make_bench: MakeBench) -> None:
    bench = make_bench(3)
    window, session = bench.window, bench.window.session
    poem, other = (item.id for item in session.items[:2])
    findings = (Finding("truncated"), Finding("thought"), Finding("near", other, ratio=0.9))
    session.add_flags((poem, finding) for finding in findings)
    window.refresh()
    badges = [w for w in widgets(bench.root) if w.winfo_class() == "TButton"]
    texts = [str(w.cget("text")) for w in badges if str(w.cget("style")) == "Badge.TButton"]
    assert texts == ["cut off by the token limit", "holds a model's thinking", "90% like No. 2 (d)"]
    window.actions.on_key("d")
    assert session.current is not None
    assert session.current.item.id == other


def test_a_filter_that_shows_nothing_says_so(make_bench: MakeBench) -> None:
    bench = make_bench(3, state=WindowState(filter=Filter(search="火车")))
    assert bench.poem == "No poem matches the filter."
    bench.window.actions.run("accept")
    assert bench.window.session.replay.entries == []


def test_a_disk_that_refuses_is_told_and_tried_again(make_bench: MakeBench, tmp_path: Path) -> None:
    bench = make_bench(6)
    away = tmp_path.with_name(tmp_path.name + "-away")
    tmp_path.rename(away)
    bench.window.actions.run("accept")
    bench.settle()
    assert "1 decision is not saved yet (No such file or directory)" in bench.banner
    bench.window.close()
    assert "Close again to discard them" in bench.banner
    away.rename(tmp_path)
    bench.settle(lambda: not bench.window.app.journal.num_waiting)
    bench.window.actions.run("next")
    bench.settle()
    assert bench.banner == ""
    assert bench.window.app.journal.num_waiting == 0


def test_a_journal_removed_while_the_window_is_open_is_written_again(
    make_bench: MakeBench, tmp_path: Path
) -> None:
    bench = make_bench(6)
    bench.window.actions.run("accept")
    (tmp_path / "decisions.jsonl").unlink()
    bench.window.actions.run("reject")
    bench.settle()
    assert "was removed while it was in use; it was written again, with 2 lines" in bench.banner
    assert len(read_journal(tmp_path / "decisions.jsonl")) == 2


class FakeMore:
    """Stands in for the writer; answers when told to."""

    def __init__(self) -> None:
        self.report = None

    def ask(self, like: Item, report: object) -> bool:
        if self.report is not None:
            return False
        self.theme, self.report = like.candidate.theme, report
        return True


def test_more_poems_come_next_and_a_server_that_is_down_is_told(make_bench: MakeBench) -> None:
    bench = make_bench(3)
    more = FakeMore()
    bench.window.app.more = more  # pyright: ignore
    bench.window.actions.run("more")
    assert "Writing two more poems" in str(bench.window.banner.cget("text"))
    bench.window.actions.run("more")
    assert "already" in str(bench.window.banner.cget("text"))
    fresh = Candidate(theme="雨", text="新写的雨", sample=99)
    assert more.report is not None
    more.report(Written("雨", [fresh]))  # pyright: ignore
    bench.settle(lambda: len(bench.window.session.items) == 4)
    bench.window.actions.run("next")
    assert bench.poem == "新写的雨"
    more.report(Written("雨", problem="No server answers at http://127.0.0.1:9/v1."))  # pyright: ignore
    bench.settle(lambda: "No server answers" in bench.banner)


def test_every_widget_follows_light_and_dark(make_bench: MakeBench) -> None:
    bench = make_bench(6)
    for action in ("pairs", "statistics", "help", "type"):
        bench.window.actions.run(action)
    for palette, other in ((DARK, LIGHT), (LIGHT, DARK)):
        bench.window.looks.choose("dark" if palette is DARK else "light")
        bench.settle()
        colours = {
            str(widget.cget(option))
            for widget in (bench.root, *widgets(bench.root), *sheets(bench.root))
            if not isinstance(widget, ttk.Widget)
            for option in ("background", "foreground")
            if option in widget.keys()  # noqa: SIM118
        }
        assert palette.paper in colours
        assert not colours & set(other)


def test_type_grows_and_shrinks_with_all_its_windows(make_bench: MakeBench) -> None:
    bench = make_bench(6)
    before = bench.window.looks.fonts["VersePoem"].metrics("linespace")
    bench.window.actions.on_key("Ctrl+plus")
    assert bench.window.looks.fonts["VersePoem"].metrics("linespace") > before
    bench.window.actions.on_key("Ctrl+0")
    assert bench.window.looks.fonts["VersePoem"].metrics("linespace") == before


def test_pairs_are_answered_by_keys_and_undone(make_bench: MakeBench) -> None:
    bench = make_bench(6)
    bench.window.actions.run("pairs")
    [sheet] = sheets(bench.root)
    assert isinstance(sheet, PairsWindow)
    sheet.focus_force()
    bench.settle(lambda: bench.root.focus_get() is sheet)
    first = [page.text.get("1.0", "end") for page in sheet.pages]
    for key in ("<Left>", "<Down>", "<x>"):
        sheet.event_generate(key)
        bench.settle()
    replay = bench.window.session.replay
    assert [pair.verdict for pair in replay.pairs()] == ["left", "tie", "both_bad"]
    for _ in range(3):
        sheet.event_generate("<u>")
        bench.settle()
    assert list(replay.pairs()) == []
    assert [page.text.get("1.0", "end") for page in sheet.pages] == first


def test_the_figures_name_every_source_when_sources_are_shown(make_bench: MakeBench) -> None:
    bench = make_bench(make_items(6, mixed=True), state=WindowState(blind=False))
    for action in ("accept", "reject", "accept"):
        bench.window.actions.run(action)
    bench.window.actions.run("statistics")
    [sheet] = sheets(bench.root)
    assert isinstance(sheet, StatisticsWindow)
    tables = [w for w in widgets(sheet) if isinstance(w, ttk.Treeview)]
    rows = [tables[0].item(row, "values") for row in tables[0].get_children()]
    assert {str(row[0]) for row in rows} == {"xuzhimo@60", "hushi@80", "base@60", "all"}
    plots = [w for w in widgets(sheet) if isinstance(w, tkinter.Canvas)]
    bench.settle()
    assert sum(len(plot.find_all()) > 3 for plot in plots) >= 3


def test_the_typeface_can_be_chosen_among_installed_chinese_ones(make_bench: MakeBench) -> None:
    bench = make_bench(6)
    fonts = bench.window.looks.fonts
    assert fonts.family in fonts.families
    bench.window.actions.run("type")
    [sheet] = sheets(bench.root)
    assert isinstance(sheet, TypeWindow)
    boxes = [w for w in widgets(sheet) if isinstance(w, ttk.Combobox)]
    boxes[0].set(fonts.families[-1])
    boxes[0].event_generate("<<ComboboxSelected>>")
    bench.settle()
    assert fonts["VersePoem"].cget("family") == fonts.families[-1]


def visible_tips(root: tkinter.Misc) -> list[tkinter.Toplevel]:
    found: list[tkinter.Toplevel] = []
    for child in root.winfo_children():
        if isinstance(child, tkinter.Toplevel) and child.overrideredirect():
            found += [child] if child.winfo_viewable() else []
        found += visible_tips(child)
    return found


def point_at(screen: Screen, bench: Bench, widget: tkinter.Misc) -> None:
    x = widget.winfo_rootx() + widget.winfo_width() // 2
    y = widget.winfo_rooty() + widget.winfo_height() // 2
    screen.run("xdotool", "mousemove", str(x - 3), str(y), "mousemove", str(x), str(y))
    bench.settle(lambda: visible_tips(bench.root))


def test_tooltips_leave_nothing_behind(screen: Screen, make_bench: MakeBench) -> None:
    bench = make_bench(6)
    window, session = bench.window, bench.window.session
    session.add_flags([(session.items[0].id, Finding("near", session.items[1].id, ratio=0.9))])
    window.refresh()
    bench.settle()
    buttons = [w for w in widgets(bench.root) if isinstance(w, ttk.Button) and w.winfo_viewable()]
    [badge] = [b for b in buttons if "like No." in str(b.cget("text"))]
    [edit] = [b for b in buttons if str(b.cget("text")).startswith("Edit")]

    point_at(screen, bench, badge)
    session.move(1)
    window.refresh()  # the badge is destroyed under the pointer
    bench.settle()
    assert visible_tips(bench.root) == []

    point_at(screen, bench, edit)
    window.open_editor()  # the button is hidden under the pointer
    bench.settle()
    assert visible_tips(bench.root) == []
    window.close_editor()

    bench.root.focus_force()
    screen.run("xdotool", "mousemove", "2", "2")
    bench.settle()
    point_at(screen, bench, edit)
    screen.keys("b")
    bench.settle(lambda: not session.blind)
    bench.wait(1.2)  # the package shows it again after a second unless it knows better
    assert visible_tips(bench.root) == []
    screen.run("xdotool", "mousemove", "2", "2")


@pytest.mark.perf
def test_five_thousand_poems_open_in_a_second_and_move_at_once(make_bench: MakeBench) -> None:
    items = make_items(5000)
    start = time.process_time()
    bench = make_bench(items)
    opened = time.process_time() - start
    times: list[float] = []
    for action in ["next"] * 20 + ["accept"] * 20 + ["undo"] * 20:
        start = time.process_time()
        bench.window.actions.run(action)
        bench.root.update()
        times.append(time.process_time() - start)
    assert opened < 1.0
    assert statistics.median(times) < 0.05
