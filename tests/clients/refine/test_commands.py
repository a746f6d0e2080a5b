"""The steps on files: filter, convert and compare, with the very words a round runs them with."""

import json
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from tests.clients.refine.conftest import decision, own_text, write_lines, write_poets_files
from verse import UserError, jsonl
from verse.records import Candidate, Poem, PreferencePair
from verse_clients.decisions.sources import read_items
from verse_clients.refine import rounds
from verse_clients.refine.cli import app
from verse_clients.refine.plan import Plan, read_plan
from verse_clients.refine.steps import steps

POEMS = [Poem(theme=f"题{number}", text=own_text(number)) for number in range(8)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_poets_files(tmp_path / "data", POEMS, num_valid=2)
    return rounds.start_round(Plan(adapters=("old",), new_adapter="adapters/new"))


def run(*words: str) -> Result:
    result = CliRunner().invoke(app, list(words))
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def run_step(folder: Path, name: str) -> Result:
    """The very words of a round's step."""
    [step] = [step for step in steps(read_plan(folder), folder) if step.name == name]
    command = next(command for command in step.commands if command[0] == "refine")
    return run(*command[1:])


def candidates(*texts: str, adapter: str = "old") -> list[Candidate]:
    return [
        Candidate(theme=f"题{number % 2}", text=text, adapter=adapter, sample=number)
        for number, text in enumerate(texts)
    ]


def test_the_filter_keeps_what_could_be_learned_and_says_what_it_left(folder: Path) -> None:
    fresh, other = own_text(50), own_text(51)
    cut = Candidate(theme="题", text=own_text(52), finish_reason="length")
    blocked = Candidate(theme="题", text=own_text(53), blocked="copy", copied_from="《别处》")
    copy, leak = POEMS[0].text + own_text(54, 4), POEMS[7].text
    poems = [
        *candidates(fresh, fresh.replace("\n", "，\n"), copy, leak, " \n", other),
        cut,
        blocked,
    ]
    write_lines(folder / "poems.jsonl", poems)
    result = run_step(folder, "filter")
    kept = jsonl.read(folder / "filtered.jsonl", msgspec.json.Decoder(Candidate))
    assert [poem.text for poem in kept] == [fresh, other]
    for line in (
        "# 2 poems kept", "1 left out: cut off by", "1 left out: too close to a poem of the valid",
        "2 left out: copied from", "1 left out: nearly the same", "1 left out: no text",
        "like 《别处》",
    ):  # fmt: skip
        assert line in result.output
    assert (folder / "filtered.md").read_text("utf-8") in result.output


def test_a_filter_that_leaves_nothing_says_so_and_writes_nothing(folder: Path) -> None:
    write_lines(folder / "poems.jsonl", candidates(POEMS[0].text))
    with pytest.raises(UserError, match=r"No poem of \S+poems\.jsonl is left"):
        run_step(folder, "filter")
    assert not (folder / "filtered.jsonl").exists()


def test_a_poem_with_a_models_thinking_in_it_is_left_out(folder: Path) -> None:
    marked = Candidate(theme="题", text=own_text(55), blocked="thought")
    found = f"{own_text(56)}\n<think>再想想"
    write_lines(folder / "poems.jsonl", [*candidates(own_text(50), found), marked])
    assert "2 left out: a tag of a model's thinking in it" in run_step(folder, "filter").output


def test_poems_like_those_decided_before_are_not_shown_again(folder: Path) -> None:
    decided = write_lines(Path("before.jsonl"), [decision("题", own_text(60), "reject")])
    write_lines(folder / "poems.jsonl", candidates(own_text(60) + "了", own_text(61)))
    poems = str(folder / "poems.jsonl")
    run("filter", "-i", poems, "-o", "kept.jsonl", "--decided", str(decided))
    kept = jsonl.read(Path("kept.jsonl"), msgspec.json.Decoder(Candidate))
    assert [poem.text for poem in kept] == [own_text(61)]


def test_convert_writes_poems_pairs_and_the_next_set(folder: Path) -> None:
    edited = decision("题0", own_text(70), "edit", final=own_text(70)[:-3] + "改了它")
    entries = [edited, decision("题1", own_text(71)), decision("题1", own_text(72), "reject")]
    write_lines(folder / "decisions.jsonl", entries)
    result = run_step(folder, "convert")
    assert "2 poems that models wrote: 1 as they were, 1 in the poet's version" in result.output
    additional = jsonl.read(folder / "additional_poems.jsonl", msgspec.json.Decoder(Poem))
    assert [(poem.origin, poem.source) for poem in additional] == [
        ("edited", edited.candidate.id), ("accepted", entries[1].candidate.id),
    ]  # fmt: skip
    assert jsonl.read(folder / "data" / "poems.jsonl", msgspec.json.Decoder(Poem)) == [
        *POEMS, *additional,
    ]  # fmt: skip
    split = (folder / "data" / "split.json").read_bytes()
    assert split == Path("data/split.json").read_bytes()
    pair_decoder = msgspec.json.Decoder(PreferencePair)
    pairs = jsonl.read(folder / "additional_pairs.jsonl", pair_decoder)
    assert [pair.reason for pair in pairs] == ["edited", "accepted"]
    for_dpo = [folder / "data" / "pairs" / name for name in ("train.jsonl", "valid.jsonl")]
    assert sum(len(jsonl.read(path, pair_decoder)) for path in for_dpo) == 2


def test_the_same_journal_gives_the_same_bytes(folder: Path) -> None:
    write_lines(folder / "decisions.jsonl", [decision("题0", own_text(n)) for n in range(70, 90)])
    contents: list[dict[Path, bytes]] = []
    for _ in range(2):
        run_step(folder, "convert")
        made = [folder / "additional_poems.md", *(folder / "data").rglob("*.json*")]
        contents.append({path: path.read_bytes() for path in made})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 5


def test_several_journals_count_as_one_and_undo_stays_within_its_own() -> None:
    from verse.records import Undo

    first = [decision("题", own_text(70)), decision("题", own_text(71))]
    again = decision("题", own_text(71), "reject")
    second = [decision("题", own_text(72)), Undo(undone=1, time=again.time), again]
    files = [write_lines(Path(name), e) for name, e in (("1.jsonl", first), ("2.jsonl", second))]
    run("convert", *(word for path in files for word in ("-i", str(path))), "-o", "out.jsonl")
    additional = jsonl.read(Path("out.jsonl"), msgspec.json.Decoder(Poem))
    assert [poem.text for poem in additional] == [own_text(70)]


def test_the_originals_list_is_read_and_written() -> None:
    rows = [
        {"image": "河", "response": own_text(80), "accepted": True, "adaptor": "epoch_600"},
        {"image": "河", "response": own_text(81), "accepted": True, "edited": True},
        {"image": "河", "response": own_text(82), "deleted": True},
        {"image": "河", "response": own_text(83)},
        {"image": "河", "response": own_text(84), "accepted": False, "edited": True},
    ]
    source = Path("updated_overall_poems.json")
    source.write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    run("convert", "-i", str(source), "-o", "out.jsonl", "--list", "again.json")
    additional = jsonl.read(Path("out.jsonl"), msgspec.json.Decoder(Poem))
    assert [(p.text, p.origin) for p in additional] == [
        (own_text(80), "accepted"), (own_text(81), "edited"),
    ]  # fmt: skip
    again = json.loads(Path("again.json").read_text("utf-8"))
    assert [row["response"] for row in again] == [row["response"] for row in rows]
    assert again[3:] == rows[3:]
    items = read_items([Path("again.json")])
    assert [item.past for item in items] == ["accept", "edit", "reject", None, None]


@pytest.mark.parametrize("accepted", [True, False])
@pytest.mark.parametrize("edited", [True, False])
@pytest.mark.parametrize("deleted", [True, False])
def test_convert_and_import_read_a_list_alike(accepted: bool, edited: bool, deleted: bool) -> None:
    from verse_trainer.data_set.importing import import_poems

    row = {"image": "河", "response": own_text(80), "adaptor": "epoch_600"}
    other = row | {"response": own_text(81), "accepted": True}
    flags = {"accepted": accepted, "edited": edited, "deleted": deleted}
    source = Path("updated_overall_poems.json")
    source.write_text(json.dumps([row | flags, other], ensure_ascii=False), "utf-8")
    run("convert", "-i", str(source), "-o", "converted.jsonl")
    import_poems([source], Path("imported.jsonl"))
    found = [
        {(p.text, p.origin) for p in jsonl.read(Path(name), msgspec.json.Decoder(Poem))}
        for name in ("converted.jsonl", "imported.jsonl")
    ]
    assert found[0] == found[1]
    assert len(found[0]) == (2 if accepted and not deleted else 1)


@pytest.mark.parametrize(
    "keys",
    [{"accepted": 1}, {"accepted": "true", "deleted": "false"}, {"accepted": True, "label": True},
     {"answer": "reject"}, {"accepted": False}],
)  # fmt: skip
def test_convert_and_import_read_other_verdicts_on_a_list_alike(keys: dict[str, object]) -> None:
    from verse_trainer.data_set.importing import import_poems

    rows = [{"image": "河", "response": own_text(80), "accepted": True},
            {"image": "河", "response": own_text(81), **keys}]  # fmt: skip
    source = Path("updated_overall_poems.json")
    source.write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    run("convert", "-i", str(source), "-o", "converted.jsonl")
    import_poems([source], Path("imported.jsonl"))
    found = [
        [p.text for p in jsonl.read(Path(name), msgspec.json.Decoder(Poem))]
        for name in ("converted.jsonl", "imported.jsonl")
    ]
    assert found[0] == found[1]
    assert len(found[0]) == (2 if keys.get("accepted") else 1)


def test_a_list_whose_keys_contradict_each_other_is_told() -> None:
    rows = [{"image": "河", "response": own_text(80), "accepted": True, "label": False}]
    source = Path("updated_overall_poems.json")
    source.write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    with pytest.raises(UserError, match="accepted: true and label: false contradict each other"):
        run("convert", "-i", str(source), "-o", "converted.jsonl")


def test_without_a_frozen_split_it_says_what_to_do() -> None:
    journal = write_lines(Path("decisions.jsonl"), [decision("题", own_text(70))])
    Path("data/split.json").unlink()
    with pytest.raises(UserError, match="run `verse data split` first, or pass --without-split"):
        run("convert", "-i", str(journal), "-o", "out.jsonl")
    assert not Path("out.jsonl").exists()
    run("convert", "-i", str(journal), "-o", "out.jsonl", "--without-split")
    assert Path("out.jsonl").exists()


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("decisions.jsonl", None, "decisions.jsonl cannot be read: No such file"),
        ("data/poems.jsonl", None, "poems.jsonl cannot be read: No such file"),
        ("data/poems.jsonl", '{"theme": 1}\n', r"poems.jsonl:1: it has no poem"),
        ("data/split.json", "{}", "is not a split"),
        ("decisions.jsonl", "诗\n诗\n", "about which nothing was decided yet"),
        ("decisions.jsonl", '{"entry":"decision","acti', "There are no decisions in"),
    ],
)
def test_a_wrong_file_is_told_in_one_sentence(
    file: str, content: str | None, sentence: str
) -> None:
    write_lines(Path("decisions.jsonl"), [decision("题", own_text(70))])
    Path(file).unlink()
    if content is not None:
        Path(file).write_text(content, "utf-8")
    with pytest.raises(UserError, match=sentence):
        run("convert", "-i", "decisions.jsonl", "-o", "out.jsonl")


def test_both_adapters_are_mixed_for_a_blind_look_and_measured(folder: Path) -> None:
    place = folder / "compare"
    old = candidates(*(own_text(n) for n in range(40, 46)))
    copied = POEMS[0].text
    new = candidates(copied, *(own_text(n) for n in range(50, 55)), adapter="new")
    write_lines(place / "old.jsonl", old)
    write_lines(place / "new.jsonl", new)
    Path("adapters/new").mkdir(parents=True)
    metrics = [
        {"event": "train", "step": 10, "train_loss": 9.0},
        {"event": "valid", "step": 20, "valid_loss": 3.5, "is_best": True},
        {"event": "valid", "step": 40, "valid_loss": 3.75},
    ]
    Path("adapters/new/metrics.jsonl").write_text("\n".join(map(json.dumps, metrics)), "utf-8")
    result = run_step(folder, "compare")
    mixed = [item.candidate for item in read_items([place / "poems.jsonl"])]
    assert {poem.id for poem in mixed} == {poem.id for poem in old + new}
    assert [poem.theme for poem in mixed] == ["题0"] * 6 + ["题1"] * 6
    assert len({poem.adapter for poem in mixed[:6]}) == 2
    sides = json.loads((place / "numbers.json").read_text("utf-8"))
    assert [(s["name"], s["valid_loss"], s["valid_step"]) for s in sides] == [
        ("old", None, None), ("new", 3.5, 20),
    ]  # fmt: skip
    assert [s["measures"]["copy_rate"] for s in sides] == [0, pytest.approx(1 / 6)]
    assert "| new | 6 | 3.500 @20 | 16.7% |" in result.output


def test_adapters_that_were_not_asked_alike_are_told(folder: Path) -> None:
    def side(adapter: str, seed: int | None) -> list[Candidate]:
        return [
            Candidate(theme="题", text=own_text(n), adapter=adapter, sample=n, seed=seed)
            for n in range(40, 43)
        ]

    write_lines(Path("old.jsonl"), side("old", 7))
    for seed, luck in ((7, False), (8, True), (None, True)):
        write_lines(Path("new.jsonl"), side("new", seed))
        said = run("compare", "old.jsonl", "new.jsonl").output
        assert ("6 of 6 poems have no counterpart" in " ".join(said.split())) == luck


def test_a_comparison_needs_two_adapters(folder: Path) -> None:
    write_lines(Path("one.jsonl"), candidates(own_text(40)))
    with pytest.raises(UserError, match="fewer than two adapters"):
        run("compare", "one.jsonl", "one.jsonl")


def test_start_writes_a_plan_that_can_be_read_and_shows_the_commands(folder: Path) -> None:
    words = ("start", "--adapters", "诗人,hushi", "-n", "2", "--judge", "base", "--judge", "gpt-5")
    result = run(*words, "--another")
    plan = read_plan(Path("rounds/02"))
    assert (plan.adapters, plan.new_adapter) == (("诗人", "hushi"), "adapters/诗人-r02")
    assert [judge.model for judge in plan.judges] == ["base", "gpt-5"]
    assert "$ verse train -c verse-tiny --data rounds/02/data" in result.output
    assert "generate  open" in run("status").output


def test_a_round_is_named_behind_the_step() -> None:
    result = CliRunner().invoke(app, ["--round", "rounds/01", "status"])
    assert result.exit_code == 2
    assert "put --round after the step" in result.output
