"""What is decided on the page is in the journal of `verse curate`."""

from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine
from wire import Client, Connect

from verse.decision_journal import open_journal, read_journal
from verse.records import Candidate, Decision, Undo
from verse.replay import Replay, is_blind
from verse_server.config import ServerConfig

DECISIONS = "/v1/decisions"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions.jsonl"


@pytest.fixture
def client(engine: FakeEngine, connect: Connect, path: Path) -> Client:
    return connect(engine, ServerConfig(decisions=path))


def poem(**fields: Any) -> dict[str, Any]:
    return {"theme": "河", "text": "轻轻的\n我走了", "model": "xuzhimo@200", "seed": 7} | fields


def body(action: str = "accept", **fields: Any) -> dict[str, Any]:
    return {"action": action, "poem": poem(), "blind": False, "session": "s1"} | fields


def decide(client: Client, action: str = "accept", status: int = 200, **fields: Any) -> Any:
    answer = client.post(DECISIONS, json=body(action, **fields))
    assert answer.status_code == status, answer.text
    return answer.json() if status == 200 else answer.json()["error"]


def test_a_decision_is_on_the_disk_when_it_is_answered(client: Client, path: Path) -> None:
    made_by = poem(
        temperature=0.8, finish_reason="stop", completion_tokens=9, system_fingerprint="tiny-0123"
    )
    record = decide(client, poem=made_by, blind=True, order="shuffle", order_seed=3)
    [entry] = read_journal(path)
    assert isinstance(entry, Decision)
    assert (entry.action, entry.session, entry.order_seed) == ("accept", "s1", 3)
    assert is_blind(entry)
    candidate = entry.candidate
    assert (candidate.adapter, candidate.checkpoint, candidate.seed) == ("xuzhimo", 200, 7)
    assert (candidate.digest, candidate.sampling.temperature) == ("tiny-0123", 0.8)
    assert candidate.server == "http://127.0.0.1:8000/v1"
    assert record == {
        "object": "decision",
        "number": 1,
        "action": "accept",
        "poem": candidate.id,
        "edit_distance": None,
    }


def test_its_poem_has_the_id_that_verse_generate_gives(client: Client, path: Path) -> None:
    record = decide(client)
    same = Candidate(theme="河", text="轻轻的\n我走了", adapter="xuzhimo", checkpoint=200, seed=7)
    assert record["poem"] == same.id


@pytest.mark.parametrize(
    ("model", "adapter", "checkpoint"),
    [
        ("base", None, None),
        ("verse-tiny", None, None),
        ("xuzhimo", "xuzhimo", None),
        ("xuzhimo@best", "xuzhimo", "best"),
        ("xuzhimo:0.6", "xuzhimo:0.6", None),
        ("xuzhimo:0.5+hushi:0.5", "xuzhimo:0.5+hushi:0.5", None),
    ],
)
def test_the_model_is_recorded_as_verse_generate_does(
    client: Client, path: Path, model: str, adapter: str | None, checkpoint: object
) -> None:
    decide(client, poem=poem(model=model))
    [entry] = read_journal(path)
    assert isinstance(entry, Decision)
    assert (entry.candidate.adapter, entry.candidate.checkpoint) == (adapter, checkpoint)


def test_an_edit_keeps_both_texts_and_their_distance(client: Client, path: Path) -> None:
    record = decide(client, "edit", text="轻轻的\n我来了")
    assert (record["action"], record["edit_distance"]) == ("edit", 1)
    [entry] = read_journal(path)
    assert isinstance(entry, Decision)
    assert (entry.text, entry.candidate.text) == ("轻轻的\n我来了", "轻轻的\n我走了")


def test_an_edit_that_changes_nothing_is_an_acceptance(client: Client) -> None:
    record = decide(client, "edit", text="轻轻的\n我走了")
    assert (record["action"], record["edit_distance"]) == ("accept", None)


def test_the_same_decision_sent_again_is_kept_once(client: Client, path: Path) -> None:
    assert decide(client, "reject") == decide(client, "reject")
    assert len(read_journal(path)) == 1


def test_a_poem_that_was_seen_with_its_source_is_not_decided_blind(
    client: Client, path: Path
) -> None:
    decide(client, "reject", blind=False)
    decide(client, "accept", blind=True, order="shuffle")
    other = poem(seed=8)
    decide(client, "accept", poem=other, blind=True, order="shuffle")
    assert [e.blind for e in read_journal(path) if isinstance(e, Decision)] == [False, False, True]


def test_the_last_word_counts(client: Client, path: Path) -> None:
    decide(client)
    decide(client, "reject")
    assert [v.action for v in Replay(read_journal(path)).verdicts()] == ["reject"]
    decide(client)
    assert len(read_journal(path)) == 3


def test_a_decision_can_be_taken_back_once(client: Client, path: Path) -> None:
    number = decide(client)["number"]
    undone = client.delete(f"{DECISIONS}/{number}")
    assert (undone.status_code, undone.json()["object"]) == (200, "decision.undo")
    entries = read_journal(path)
    assert isinstance(entries[1], Undo)
    assert entries[1].undone == 1
    assert list(Replay(entries).verdicts()) == []
    for wrong in (number, 2, 3, 999):
        assert client.delete(f"{DECISIONS}/{wrong}").status_code == 404
    assert len(read_journal(path)) == 2


def test_while_a_window_has_the_journal_open_the_page_is_told_to_wait(
    client: Client, path: Path
) -> None:
    window = open_journal(path)
    assert decide(client, status=409)["code"] == "decisions_in_use"
    window.close()
    decide(client)
    later = open_journal(path)
    assert len(later.entries) == 1
    later.close()


def test_what_cannot_be_written_is_said_and_not_kept_back(
    engine: FakeEngine, connect: Connect, tmp_path: Path
) -> None:
    client = connect(engine, ServerConfig(decisions=tmp_path / "gone" / "decisions.jsonl"))
    assert decide(client, status=503)["code"] == "decisions_unwritable"
    (tmp_path / "gone").mkdir()
    assert decide(client)["number"] == 1


def test_a_file_that_holds_something_else_is_left_alone(client: Client, path: Path) -> None:
    path.write_text('{"theme": "雨"}\n', "utf-8")
    assert decide(client, status=503)["code"] == "decisions_unreadable"
    assert path.read_text("utf-8") == '{"theme": "雨"}\n'


def test_a_server_can_keep_none(engine: FakeEngine, connect: Connect) -> None:
    client = connect(engine, ServerConfig(decisions=None))
    assert decide(client, status=404)["code"] == "decisions_off"


def test_the_key_is_asked_for(engine: FakeEngine, connect: Connect, path: Path) -> None:
    client = connect(engine, ServerConfig(decisions=path, api_key="k"))
    assert decide(client, status=401)["code"] == "invalid_api_key"
    assert client.delete(f"{DECISIONS}/1").status_code == 401
    assert not path.exists()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"action": "edit"}, "text"),
        ({"action": "accept", "text": "x"}, "text"),
        ({"action": "edit", "text": " \n"}, "text"),
        ({"action": "burn"}, "action"),
        ({"poem": poem(text="  ")}, "poem.text"),
        ({"poem": poem(model="../../etc")}, "poem.model"),
        ({"poem": poem(path="/etc/passwd")}, "poem.path"),
        ({"path": "/tmp/decisions.jsonl"}, "path"),
        ({"session": "a\nb"}, "session"),
        ({"blind": None}, "blind"),
        ({"order_seed": -1}, "order_seed"),
    ],
)
def test_bad_input_is_named_and_writes_nothing(
    client: Client, path: Path, fields: dict[str, Any], param: str
) -> None:
    answer = client.post(DECISIONS, json=body(**fields))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert not path.exists()
