"""A split is drawn once, and no poem is ever on both sides of it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core.tokenizer import make_tokenizer
from tests.trainer.data_set.original import seed_text, write_lines
from tests.trainer.data_set.poem_pile import make_poem
from verse import jsonl
from verse.poem_split import PoemSplit, PoemSplitError, read_split
from verse.prompt import POEM_SYSTEM, Message, PromptFormat, render
from verse.records import Poem, TrainingExample
from verse.similarity import normalise, similar_pairs
from verse_trainer.data_set.rows import read_rows
from verse_trainer.data_set.splitting import SplitReport, divide, draw, split_poems
from verse_trainer.errors import DataSetError

ROW = msgspec.json.Decoder(TrainingExample)
WRITTEN = ("split.json", "train.jsonl", "valid.jsonl")
in_one_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=40,
)

piles = st.lists(
    st.builds(make_poem, st.integers(0, 30), draft=st.booleans()),
    min_size=2,
    max_size=40,
    unique_by=lambda poem: poem.id,
).filter(lambda poems: len({poem.theme.strip("稿") for poem in poems}) > 1)


def split(folder: Path, *poems: Poem, share: float = 0.12, seed: int = 0) -> SplitReport:
    jsonl.rewrite(folder / "poems.jsonl", poems)
    return split_poems(folder / "poems.jsonl", share, seed, POEM_SYSTEM)


def texts(folder: Path, name: str) -> list[str]:
    return [row.example.messages[-1].content for row in read_rows(folder / name)]


def fresh(folder: Path) -> Path:
    for file in folder.iterdir():
        file.unlink()
    return folder


@given(piles, st.floats(0.01, 0.5), st.integers())
def test_no_poem_is_learned_that_is_like_one_to_measure_with(
    poems: list[Poem], share: float, seed: int
) -> None:
    parts = divide(poems, draw(poems, share, seed))
    assert parts.train
    assert parts.valid
    assert not parts.left_out
    assert sorted(poem.id for poem in (*parts.train, *parts.valid)) == sorted(p.id for p in poems)
    both = [poem.text for poem in (*parts.valid, *parts.train)]
    for first, second, _ in similar_pairs(both):
        assert (first < len(parts.valid)) == (second < len(parts.valid))


@given(st.permutations([make_poem(number) for number in range(20)]))
def test_the_order_of_the_file_decides_nothing(poems: list[Poem]) -> None:
    assert draw(poems, 0.2, 7) == draw([make_poem(number) for number in range(20)], 0.2, 7)


@pytest.mark.parametrize("num_poems", [40, 61, 100, 124, 200])
def test_a_tenth_to_a_seventh_of_the_poems_validate(num_poems: int) -> None:
    drawn = draw([make_poem(number) for number in range(num_poems)], 0.12, 0)
    assert 0.1 <= len(drawn.valid) / num_poems <= 0.15


def test_another_seed_draws_others() -> None:
    poems = [make_poem(number) for number in range(40)]
    assert draw(poems, 0.12, 0).valid != draw(poems, 0.12, 1).valid


def test_a_model_is_measured_by_what_the_poet_wrote() -> None:
    poems = [make_poem(n, origin="accepted" if n % 4 else "poet") for n in range(40)]
    drawn = divide(poems, draw(poems, 0.12, 0)).valid
    assert len(drawn) == 5
    assert {poem.origin for poem in drawn} == {"poet"}


@in_one_folder
@given(piles, piles)
def test_a_frozen_split_survives_growth(
    tmp_path: Path, poems: list[Poem], later: list[Poem]
) -> None:
    fresh(tmp_path)
    before = split(tmp_path, *poems).split
    known = {poem.id for poem in poems}
    grown = [*poems, *(poem for poem in later if poem.id not in known)]
    report = split(tmp_path, *grown, share=0.4, seed=9)
    assert report.was_frozen
    assert report.split == read_split(tmp_path / "split.json") == before
    assert [poem.id for poem in report.parts.valid] == [p.id for p in poems if before.is_valid(p)]
    learned, measured = texts(tmp_path, "train.jsonl"), texts(tmp_path, "valid.jsonl")
    assert not {normalise(text) for text in learned} & {normalise(text) for text in measured}
    assert len(learned) + len(measured) + len(report.parts.left_out) == len(grown)


def test_a_new_poem_that_is_like_a_validation_poem_is_left_out_and_named(tmp_path: Path) -> None:
    poems = [make_poem(number) for number in range(10)]
    valid = split(tmp_path, *poems).parts.valid
    number = poems.index(valid[0])
    draft = make_poem(number, draft=True)
    report = split(tmp_path, *poems, draft)
    assert report.parts.left_out == ((draft, valid[0]),)
    assert draft.text not in texts(tmp_path, "train.jsonl") + texts(tmp_path, "valid.jsonl")


def test_the_same_poems_and_seed_give_the_same_bytes(tmp_path: Path) -> None:
    poems = [make_poem(number) for number in range(30)]
    written: list[list[bytes]] = []
    for _ in range(2):
        split(fresh(tmp_path), *poems, seed=3)
        split(tmp_path, *poems, seed=3)
        written.append([(tmp_path / name).read_bytes() for name in WRITTEN])
    assert written[0] == written[1]


def test_rows_are_messages_with_the_system_message_and_the_poems_id(tmp_path: Path) -> None:
    poems = [make_poem(0), make_poem(1, origin="edited")]
    report = split(tmp_path, *poems)
    (poem,) = report.parts.train
    (row,) = jsonl.read(tmp_path / "train.jsonl", ROW)
    assert row == TrainingExample(
        messages=(
            Message("system", POEM_SYSTEM),
            Message("user", poem.theme),
            Message("assistant", poem.text),
        ),
        source=poem.id,
        origin=poem.origin,
    )
    split_poems(tmp_path / "poems.jsonl", 0.12, 0, None)
    (row,) = jsonl.read(tmp_path / "train.jsonl", ROW)
    assert [message.role for message in row.messages] == ["user", "assistant"]


def test_rows_that_no_split_wrote_are_set_aside(tmp_path: Path) -> None:
    poems = [make_poem(number) for number in range(4)]
    foreign = write_lines(tmp_path / "train.jsonl", {"text": seed_text("河", "水")})
    before = foreign.read_bytes()
    assert split(tmp_path, *poems).kept_aside == (tmp_path / "train.jsonl.old",)
    assert (tmp_path / "train.jsonl.old").read_bytes() == before
    # Its own rows are written anew, also when a poem is gone since.
    assert split(tmp_path, *poems).kept_aside == ()
    kept = [poem for poem in poems if poem != split(tmp_path, *poems).parts.train[0]]
    assert split(tmp_path, *kept).kept_aside == ()


def test_a_row_changed_by_hand_is_set_aside_too(tmp_path: Path) -> None:
    poems = [make_poem(number) for number in range(4)]
    split(tmp_path, *poems)
    rows = jsonl.read(tmp_path / "train.jsonl", ROW)
    changed = msgspec.structs.replace(
        rows[0], messages=(*rows[0].messages[:-1], Message("assistant", "改过"))
    )
    jsonl.rewrite(tmp_path / "train.jsonl", [changed, *rows[1:]])
    assert split(tmp_path, *poems).kept_aside == (tmp_path / "train.jsonl.old",)


def test_a_poem_that_stands_twice_is_one_row(tmp_path: Path) -> None:
    report = split(tmp_path, make_poem(0), make_poem(1), make_poem(0))
    assert report.num_repeated == 1
    assert len(read_rows(tmp_path / "train.jsonl")) + len(read_rows(tmp_path / "valid.jsonl")) == 2


CANNOT: dict[str, tuple[list[Poem], str]] = {
    "no poems": ([], r"holds no poems; fill it with `verse data import`"),
    "one poem": ([make_poem(0)], r"A split needs two poems that differ.+here is one poem"),
    "drafts of one": ([make_poem(0), make_poem(0, draft=True)], r"here all poems are alike"),
    "a poem without text": ([make_poem(0), Poem(theme="河", text=" ")], r"empty or has no theme"),
}


@pytest.mark.parametrize("case", CANNOT)
def test_what_cannot_be_split_is_one_sentence_and_nothing_is_written(
    case: str, tmp_path: Path
) -> None:
    poems, sentence = CANNOT[case]
    with pytest.raises(DataSetError, match=sentence):
        split(tmp_path, *poems)
    assert [file.name for file in tmp_path.iterdir()] == ["poems.jsonl"]


def test_a_split_none_of_whose_poems_are_left_says_how_to_draw_anew(tmp_path: Path) -> None:
    split(tmp_path, make_poem(0), make_poem(1))
    with pytest.raises(DataSetError, match=r"move split\.json away to draw new ones"):
        split(tmp_path, make_poem(2), make_poem(3))


def test_a_missing_file_and_a_foreign_split_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match=r"^There is no .+poems\.jsonl; make it with"):
        split_poems(tmp_path / "poems.jsonl", 0.12, 0, None)
    (tmp_path / "split.json").write_text("{}")
    with pytest.raises(PoemSplitError, match="is not a split"):
        split(tmp_path, make_poem(0), make_poem(1))


def test_the_frozen_file_is_a_poem_split(tmp_path: Path) -> None:
    split(tmp_path, *(make_poem(number) for number in range(20)), seed=5)
    frozen = msgspec.json.decode((tmp_path / "split.json").read_bytes(), type=PoemSplit)
    assert (frozen.share, frozen.seed, len(frozen.valid)) == (0.12, 5, 2)


def test_plain_mlx_lm_trains_on_the_very_ids_that_render_gives(tmp_path: Path) -> None:
    from mlx_lm.tuner.datasets import load_local_dataset

    tokenizer: Any = make_tokenizer()
    split(tmp_path, *(make_poem(number) for number in range(6)))
    data_sets: Any = load_local_dataset(tmp_path, tokenizer, SimpleNamespace(mask_prompt=True))
    for name, data in zip(("train.jsonl", "valid.jsonl"), data_sets, strict=False):
        rows = read_rows(tmp_path / name)
        assert len(data) == len(rows)
        for place, row in enumerate(rows):
            theirs, prompt_length = data.process(data[place])
            ours = render(row.example.messages, PromptFormat(), tokenizer)
            assert tuple(theirs) == ours.token_ids
            assert prompt_length == ours.mask.index(True)
