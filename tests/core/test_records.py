from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from verse import records
from verse.prompt import Message
from verse.records import (
    Candidate,
    Decision,
    JournalEntry,
    PairDecision,
    Poem,
    RubricScores,
    TrainingExample,
    Undo,
)

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
STRUCTS = [
    value
    for value in vars(records).values()
    if isinstance(value, type) and issubclass(value, msgspec.Struct) and value is not Message
]
# Fields of the first version. Every later one needs a default, or yesterday's files do not open.
REQUIRED = {
    "Poem": {"theme", "text"},
    "Sampling": set[str](),
    "Candidate": {"theme", "text"},
    "RubricScores": {"theme_adherence", "poetic_quality", "fluency", "emotional_resonance"},
    "LikelihoodMeasure": {"value", "error"},
    "LikelihoodScores": {"fluency"},
    "Judgment": {"key", "judge", "server", "prompt", "candidates", "outcome"},
    "Decision": {"action", "candidate", "blind", "time"},
    "PairDecision": {"left", "right", "verdict", "blind", "time"},
    "Undo": {"undone", "time"},
    "TrainingExample": {"messages"},
    "PreferencePair": {"prompt", "chosen", "rejected"},
}


@pytest.mark.parametrize("struct", STRUCTS)
def test_no_field_is_required_that_was_not_from_the_start(struct: type[msgspec.Struct]) -> None:
    fields = msgspec.structs.fields(struct)
    assert {field.name for field in fields if field.required} == REQUIRED[struct.__name__]


@pytest.mark.parametrize("struct", STRUCTS)
def test_records_are_frozen_and_documented(struct: type[msgspec.Struct]) -> None:
    assert struct.__struct_config__.frozen
    assert struct.__doc__


def test_a_poem_without_an_id_gets_one_that_follows_from_its_content() -> None:
    read = msgspec.json.decode('{"theme": "河", "text": "河水\\n流过"}', type=Poem)
    assert read.id == Poem(theme="河", text="河水\r\n流过\n", source="elsewhere").id
    assert read.id != Poem(theme="江", text="河水\n流过").id


def test_a_given_id_is_kept() -> None:
    assert Poem(theme="河", text="河水", id="mine").id == "mine"


def test_line_breaks_and_leading_spaces_are_kept_as_written() -> None:
    poem = Poem(theme="河", text="  河水\n\n　　流过 \n")
    assert msgspec.json.decode(msgspec.json.encode(poem), type=Poem).text == poem.text


def test_a_candidate_made_again_in_the_same_way_keeps_its_id() -> None:
    first = Candidate(theme="河", text="河水", adapter="xuzhimo", seed=7, time=NOON, server="a")
    again = Candidate(theme="河", text="河水", adapter="xuzhimo", seed=7, server="b")
    assert first.id == again.id


@pytest.mark.parametrize(
    "change",
    [
        {"text": "江水"},
        {"theme": "江"},
        {"adapter": "hushi"},
        {"digest": "ab"},
        {"checkpoint": 200},
        {"checkpoint": "best"},
        {"variant": "写{theme}"},
        {"seed": 8},
        {"sample": 1},
    ],
    ids=str,
)
def test_a_candidate_from_elsewhere_has_an_id_of_its_own(change: dict[str, Any]) -> None:
    candidate = Candidate(theme="河", text="河水", adapter="xuzhimo", seed=7)
    assert msgspec.structs.replace(candidate, id="", **change).id != candidate.id


@pytest.mark.parametrize("score", [-1, 6, 2.5, "4"])
def test_a_score_off_the_scale_is_refused(score: object) -> None:
    fields = [field.name for field in msgspec.structs.fields(RubricScores)]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(dict.fromkeys(fields, score), RubricScores)


def test_the_three_kinds_of_journal_entries_are_told_apart() -> None:
    candidate = Candidate(theme="河", text="河水")
    entries: list[JournalEntry] = [
        Decision(action="accept", candidate=candidate, blind=True, time=NOON, stars=5),
        PairDecision(left=candidate, right=candidate, verdict="tie", blind=False, time=NOON),
        Undo(undone=1, time=NOON),
    ]
    decoder = msgspec.json.Decoder(JournalEntry)
    assert [decoder.decode(msgspec.json.encode(entry)) for entry in entries] == entries


def test_an_edit_keeps_what_the_model_wrote() -> None:
    candidate = Candidate(theme="河", text="河水")
    edit = Decision(
        action="edit", candidate=candidate, text="江水", edit_distance=1, blind=True, time=NOON
    )
    read = msgspec.json.decode(msgspec.json.encode(edit), type=Decision)
    assert (read.candidate.text, read.text) == ("河水", "江水")


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="timezone"):
        msgspec.json.decode(
            '{"entry": "undo", "undone": 1, "time": "2026-11-24T12:00:00"}', type=Undo
        )


def test_a_training_example_is_a_row_that_mlx_lm_reads() -> None:
    example = TrainingExample(messages=(Message("user", "河"), Message("assistant", "河水")))
    row = msgspec.json.decode(msgspec.json.encode(example))
    assert row["messages"] == [
        {"role": "user", "content": "河"},
        {"role": "assistant", "content": "河水"},
    ]
