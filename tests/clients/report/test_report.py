"""The figures of a report, on journals small enough to count by hand; and the page around them."""

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from tests.clients.refine.conftest import decision, later, own_text, write_lines
from verse import UserError, jsonl
from verse.records import Candidate, Decision, JournalEntry, PairDecision, Poem, Undo
from verse_clients.report.cli import app
from verse_clients.report.figures import figures, verdict
from verse_clients.report.gather import Round, gather
from verse_clients.report.pages import html, markdown


def decisions(model: str, *counts: int, blind: bool = True, start: int = 0) -> list[Decision]:
    """So many accepted, edited and rejected poems of one adapter."""
    adapter, _, step = model.partition("@")
    actions = [
        a for a, n in zip(("accept", "edit", "reject"), counts, strict=True) for _ in range(n)
    ]
    return [
        decision(
            f"题{number % 3}",
            own_text(start + number),
            action,
            final="改过的诗" if action == "edit" else None,
            adapter=adapter,
            checkpoint=int(step) if step else None,
            variant="写{theme}" if number % 2 else None,
            sample=number,
            blind=blind,
        )
        for number, action in enumerate(actions)
    ]


def a_round(name: str, entries: Sequence[Decision | PairDecision], **fields: object) -> Round:
    written = tuple(e.candidate.text for e in entries if isinstance(e, Decision))
    return Round(**{"name": name, "entries": tuple(entries), "written": written, **fields})  # pyright: ignore


def test_the_three_shares_are_those_of_the_journal() -> None:
    found = figures([a_round("1", decisions("xuzhimo@200", 4, 3, 3))])
    assert found.overall == ("all", 4, 3, 3)
    text = markdown(found)
    assert "| all | 10 | 40% (17-69 %) | 30% (11-60 %) | 30% (11-60 %) |" in text


def test_decisions_are_told_by_adapter_checkpoint_theme_and_variant() -> None:
    entries = [*decisions("a@100", 2, 0, 1), *decisions("a@200", 1, 1, 0, start=20)]
    entries += decisions("b", 0, 0, 1, start=40)
    by = figures([a_round("1", entries)]).by
    assert by["adapter"] == [("a", 3, 1, 1), ("b", 0, 0, 1)]
    assert by["checkpoint"] == [("a@100", 2, 0, 1), ("a@200", 1, 1, 0), ("b", 0, 0, 1)]
    assert [(tally.name, tally.decided) for tally in by["theme"]] == [
        ("题0", 3),
        ("题1", 2),
        ("题2", 1),
    ]
    assert [(tally.name, tally.decided) for tally in by["variant"]] == [
        ("the theme alone", 4), ("写{theme}", 2),
    ]  # fmt: skip


def test_what_was_undone_or_skipped_counts_for_nothing(tmp_path: Path) -> None:
    entries: list[JournalEntry] = [*decisions("a", 2, 0, 0), Undo(undone=1, time=later(9))]
    entries.append(decision("题", "跳过", "skip"))
    [one] = gather([write_lines(tmp_path / "decisions.jsonl", entries)], [])
    assert figures([one]).overall == ("all", 1, 0, 0)


def test_only_blind_decisions_tell_which_checkpoint_is_best() -> None:
    seen = decisions("a@100", 40, 0, 0, blind=False)
    blind = [*decisions("a@100", 5, 0, 25, start=100), *decisions("a@200", 25, 3, 2, start=200)]
    said = verdict([*seen, *blind], [])
    assert said.sentence == (
        "a@200 is the best: 93% (79-98 %) of its 30 poems were accepted, "
        "and no other's interval reaches that far."
    )
    assert [tally.name for tally in said.tallies] == ["a@200", "a@100"]
    assert said.tallies[1].decided == 30


def test_decisions_of_old_journals_that_do_not_say_the_order_shown_tell_nothing() -> None:
    old = [msgspec.structs.replace(one, order=None) for one in decisions("a@100", 20, 0, 0)]
    sentence = verdict(old, []).sentence
    assert sentence.startswith("No decision was made blind")
    assert "journals that do not record the order shown do not count" in sentence
    said = verdict([*old, *decisions("a@200", 10, 0, 0, start=100)], [])
    assert [(tally.name, tally.decided) for tally in said.tallies] == [("a@200", 10)]


def test_a_lead_within_the_intervals_is_called_no_more_than_that() -> None:
    entries = [*decisions("a@100", 6, 0, 4), *decisions("a@200", 7, 0, 3, start=100)]
    assert verdict(entries, []).sentence.startswith("a@200 leads, but a@100 may be as good: 70%")


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([], "No decision was made blind"),
        (decisions("a@100", 20, 0, 0, blind=False), "No decision was made blind"),
        (decisions("a@100", 3, 0, 0), "No checkpoint has 10 blind decisions yet"),
        (decisions("a@100", 10, 0, 0), "Only a@100 was read blind often enough: 100%"),
    ],
)
def test_too_little_is_called_too_little(entries: list[Decision], sentence: str) -> None:
    assert verdict(entries, []).sentence.startswith(sentence)


def test_wins_side_by_side_are_counted_between_checkpoints_alone() -> None:
    old, new = (Candidate(theme="河", text=t, adapter=a) for t, a in (("一", "old"), ("二", "new")))
    other = Candidate(theme="河", text="三", adapter="old")
    last = Candidate(theme="河", text="四", adapter="new")
    pairs = [
        PairDecision(
            left=old, right=new, verdict="right", blind=True, order="shuffle", time=later(1)
        ),
        PairDecision(
            left=new, right=other, verdict="left", blind=True, order="shuffle", time=later(2)
        ),
        PairDecision(
            left=last, right=old, verdict="both_bad", blind=True, order="shuffle", time=later(3)
        ),
        PairDecision(
            left=old, right=other, verdict="left", blind=True, order="shuffle", time=later(4)
        ),
        PairDecision(
            left=old, right=new, verdict="left", blind=False, order="shuffle", time=later(5)
        ),
    ]
    found = figures([a_round("1", pairs)]).verdict.duels
    assert found == [("new", 2, 0, 1), ("old", 0, 2, 1)]
    again = PairDecision(
        left=old, right=new, verdict="left", blind=True, order="shuffle", time=later(6)
    )
    found = figures([a_round("1", [*pairs, again])]).verdict.duels
    assert found == [("new", 1, 1, 1), ("old", 1, 1, 1)]


def test_a_second_thought_with_the_source_in_view_takes_no_blind_decision_back() -> None:
    blind = decisions("a@100", 10, 0, 0)
    changed = [
        msgspec.structs.replace(entry, action="reject", blind=False, time=later(n))
        for n, entry in enumerate(blind)
    ]
    found = figures([a_round("1", [*blind, *changed])])
    assert found.verdict.tallies == [("a@100", 10, 0, 0)]
    assert found.overall == ("all", 0, 0, 10)


def test_many_small_falls_are_told_as_one() -> None:
    def texts(num_different: int) -> tuple[str, ...]:
        return tuple(own_text(100 + number % num_different) for number in range(30))

    rounds = [
        a_round(f"0{number}", decisions("a", 1, 0, 0), written=texts(different))
        for number, different in enumerate((30, 28, 26), 1)
    ]
    told = figures(rounds).warnings
    assert len(told) == 1
    assert told[0].startswith("Round 03 beside 01: the poems are less varied (distinct-3 1.000")


def test_a_round_that_narrows_copies_or_leaves_the_poet_is_warned_of() -> None:
    poets = [own_text(900 + number, 60) for number in range(30)]
    before = [text[10:17] + own_text(number) for number, text in enumerate(poets)]
    now = ["同一行开头\n" + own_text(300 + number % 5) for number in range(28)]
    now += [poets[0][:20] + own_text(500), poets[1][:20] + own_text(501)]
    rounds = [
        a_round(name, decisions("a", 1, 0, 0), written=tuple(texts), training=tuple(poets))
        for name, texts in (("01", before), ("02", now))
    ]
    found = figures(rounds)
    assert found.sample_size == 30
    told = "\n".join(found.warnings)
    assert "less varied (distinct-3" in told
    assert "93% of the poems begin with 《同一行开头》" in told
    assert "more poems copy the poet's (0% -> 7%)" in told
    assert "less of the poet's language" in told
    assert figures(rounds[::-1]).warnings == []


def test_too_few_poems_say_nothing_about_diversity() -> None:
    found = figures([a_round("1", decisions("a", 5, 0, 0))])
    assert found.rounds[0].measures is None
    assert "| 1 | 5 | 5 |" in markdown(found)


def test_rounds_of_unlike_size_are_measured_on_equal_samples() -> None:
    small = a_round("1", decisions("a", 20, 0, 0))
    large = a_round("2", decisions("a", 60, 0, 0, start=100))
    sizes = [
        one.measures and one.measures.diversity.num_poems for one in figures([small, large]).rounds
    ]
    assert sizes == [20, 20]


class Page(HTMLParser):
    """What a browser would load and show."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data"):
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page() -> Page:
    entries = [
        *decisions("<script>alert(1)</script>", 3, 2, 1),
        *decisions("我的诗$x$@100", 5, 5, 5, start=50),
    ]
    return Page(html(figures([a_round("一<b>", entries), a_round("02", entries[:4])])))


def test_the_page_needs_nothing_from_outside(page: Page) -> None:
    assert all(link.startswith("#") for link in page.links)
    assert not {"script", "img", "link", "iframe"} & {*page.tags}
    assert page.tags.count("svg") == 3


def test_names_stay_text_in_the_page_and_in_its_plots(page: Page) -> None:
    assert page.text.count("<script>alert(1)</script>") >= 3
    assert page.text.count("我的诗$x$@100") >= 3
    assert "b" not in page.tags


def test_no_two_parts_of_the_page_have_the_same_id(page: Page) -> None:
    assert len(page.ids) == len({*page.ids})


def test_a_table_cell_of_the_markdown_cannot_be_broken_out_of() -> None:
    text = markdown(figures([a_round("1", decisions("a|b", 1, 0, 0))]))
    assert "| a\\|b | 1 |" in text


def test_the_same_decisions_give_the_same_page() -> None:
    rounds = [a_round("1", decisions("a@1", 4, 3, 3))]
    assert html(figures(rounds)) == html(figures(rounds))


def make_round(folder: Path, poems: Path) -> Path:
    folder.mkdir(parents=True)
    plan = f'adapters = ["a"]\nnew_adapter = "adapters/b"\npoems = "{poems}"\n'
    (folder / "plan.toml").write_text(plan, "utf-8")
    return folder


def test_the_command_reads_rounds_and_writes_page_and_table(tmp_path: Path) -> None:
    poems = write_lines(tmp_path / "own.jsonl", [Poem(theme="河", text=own_text(999))])
    for number in (2, 1, 3):  # the third has only begun
        folder = make_round(tmp_path / "rounds" / f"0{number}", poems)
        entries = decisions("a@100", 2 * number, 0, 1, start=30 * number)
        if number < 3:
            write_lines(folder / "poems.jsonl", [e.candidate for e in entries])
            write_lines(folder / "decisions.jsonl", entries)
    compared = decisions("b", 1, 0, 0, start=200)
    write_lines(tmp_path / "rounds" / "02" / "compare" / "decisions.jsonl", compared)
    output = tmp_path / "out" / "page.html"
    result = CliRunner().invoke(app, [str(tmp_path / "rounds"), "-o", str(output)])
    assert result.exit_code == 0, result.output
    assert "| all | 9 |" in output.with_suffix(".md").read_text("utf-8")
    rows = re.findall(r"^\| (0\d) \| (\d+) \| (\d+) \|", result.output, re.MULTILINE)
    assert rows == [("01", "3", "3"), ("02", "5", "6"), ("03", "0", "0")]
    assert output.read_text("utf-8").startswith("<!doctype html>")


def test_foreign_names_move_no_terminal_and_make_no_link_or_column(tmp_path: Path) -> None:
    name = "[a](http://x)|b\x1b[31m\x9b2J\u202e"
    entry = decisions(name, 1, 0, 0)[0]
    poem = msgspec.structs.replace(entry.candidate, theme=name, adapter=name, variant=name)
    entry = msgspec.structs.replace(entry, candidate=poem)
    journal = write_lines(tmp_path / "decisions.jsonl", [entry])
    output = tmp_path / "page.html"
    result = CliRunner().invoke(app, [str(journal), "-o", str(output)])
    assert result.exit_code == 0, result.output
    for text in (result.output, output.with_suffix(".md").read_text("utf-8")):
        assert not set(text) & {"\x1b", "\x9b", "\u202e"}
        rows = [line for line in text.splitlines() if "http://x" in line and line[0] == "|"]
        assert rows
        assert all(r"\[a\](http://x)\|b\u001b" in row for row in rows)
        assert not re.search(r"(?<!\\)\[a", text)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read: No such file"),
        ('{"theme": "雨"}\n{"theme": "雨"}\n', "poem 1: it has no poem"),
        ("[]", "holds no poem"),
        ('[{"image": "雨", "response": "雨落"}]', "about which nothing was decided yet"),
    ],
)
def test_what_is_no_journal_is_told_in_one_sentence(
    tmp_path: Path, content: str | None, sentence: str
) -> None:
    path = tmp_path / "decisions.jsonl"
    if content is not None:
        path.write_text(content, "utf-8")
    with pytest.raises(UserError, match=sentence):
        gather([path], [])


def test_a_torn_journal_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    jsonl.append(path, *decisions("a", 3, 0, 0))
    path.write_bytes(path.read_bytes()[:-30])
    [one] = gather([path], [])
    assert len(one.entries) == 2


def test_a_folder_without_rounds_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no round"):
        gather([tmp_path], [])
    make_round(tmp_path / "01", tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="There are no decisions in"):
        gather([tmp_path], [])
