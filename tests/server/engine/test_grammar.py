"""Compiled schemas on verse-tiny's own tokenizer: which tokens may follow which."""

import itertools
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from verse.base_model import BaseModel, load_base_model
from verse_server.engine.errors import EngineClosedError, InvalidRequestError
from verse_server.engine.sampling import grammar as grammar_module
from verse_server.engine.sampling.grammar import Grammars, Matcher
from verse_server.engine.sampling.grammar_tokens import make_grammar_tokenizer
from verse_server.engine.types import Constraint

pytestmark = pytest.mark.anyio

POEM: dict[str, Any] = {
    "type": "object",
    "properties": {"题": {"type": "string", "maxLength": 4}, "good": {"type": "boolean"}},
    "required": ["题", "good"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> BaseModel:
    return load_base_model(str(tiny_base))


@pytest.fixture
def grammars(base: BaseModel) -> Grammars:
    return Grammars(base)


def accepts(matcher: Matcher, base: BaseModel, text: str) -> bool:
    """Whether every token of a text was allowed in its place."""
    for token in base.tokenizer.encode(text, add_special_tokens=False):
        if not matcher.allowed()[token]:
            return False
        matcher.take(token)
    return True


def of_schema(text: str) -> Constraint:
    return Constraint("json_schema", text)


async def compiled(grammars: Grammars, schema: dict[str, Any]) -> Matcher:
    return (await grammars.compile(of_schema(json.dumps(schema)))).matcher()


class Looks:
    """A server that rests or not, and whether its grammars' tokenizer has been made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, idle_seconds: float) -> None:
        self.made, self._idle_seconds = threading.Event(), idle_seconds
        self._num, self._three = itertools.count(1), threading.Event()

        def noted(*arguments: Any) -> Any:
            self.made.set()
            return make_grammar_tokenizer(*arguments)

        monkeypatch.setattr(grammar_module, "make_grammar_tokenizer", noted)
        monkeypatch.setattr(grammar_module, "_LOOK_SECONDS", 0.001)
        monkeypatch.setattr(grammar_module, "_REST_SECONDS", 0.002)

    def idle_seconds(self) -> float:
        if next(self._num) == 3:
            self._three.set()
        return self._idle_seconds

    def wait_for_three(self) -> bool:
        return self._three.wait(60)


async def test_the_tokenizer_is_made_before_the_first_schema_when_the_server_rests(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(monkeypatch, idle_seconds=5.0)
    Grammars(base, looks.idle_seconds)
    assert looks.made.wait(60), "it is made at the first schema, beside whoever runs then"


async def test_a_server_that_is_busy_makes_the_tokenizer_for_the_first_schema_alone(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(monkeypatch, idle_seconds=0.0)
    grammars = Grammars(base, looks.idle_seconds)
    assert looks.wait_for_three()
    assert not looks.made.is_set(), "streams wait for it"
    assert accepts(await compiled(grammars, POEM), base, '{"题')
    assert looks.made.is_set()


async def test_a_server_that_has_ended_makes_no_tokenizer_any_more(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(monkeypatch, idle_seconds=0.0)
    grammars = Grammars(base, looks.idle_seconds)
    grammars.close()
    with pytest.raises(EngineClosedError):
        await compiled(grammars, POEM)
    assert not looks.made.is_set()


async def test_chinese_json_is_allowed_token_by_token_and_then_only_the_end(
    grammars: Grammars, base: BaseModel
) -> None:
    matcher = await compiled(grammars, POEM)
    assert accepts(matcher, base, '{"题": "河水", "good": true')
    assert not matcher.is_complete
    assert accepts(matcher, base, "}")
    assert matcher.is_complete
    assert {*matcher.allowed().nonzero()[0].tolist()} == base.end_tokens
    assert matcher.allowed().shape == (base.vocab_size,)
    assert matcher.failure is None


@pytest.mark.parametrize(
    "text",
    [
        "诗",
        '{"good"',
        '{"题": 5',
        '{"题": "一二三四五',
        '{"题": "河", "good": "',
        '{ "题"',
        '{"题":  ',
    ],
)
async def test_what_breaks_the_schema_is_not_allowed(
    grammars: Grammars, base: BaseModel, text: str
) -> None:
    assert not accepts(await compiled(grammars, POEM), base, text)


async def test_a_rare_character_is_allowed_in_pieces(grammars: Grammars, base: BaseModel) -> None:
    pieces = base.tokenizer.encode("龘", add_special_tokens=False)
    assert len(pieces) > 1
    assert accepts(await compiled(grammars, POEM), base, '{"题": "龘龘", "good": false}')


async def test_answers_to_one_schema_do_not_share_their_place(
    grammars: Grammars, base: BaseModel
) -> None:
    grammar = await grammars.compile(of_schema(json.dumps(POEM)))
    first, second = grammar.matcher(), grammar.matcher()
    assert accepts(first, base, '{"题": "')
    assert accepts(second, base, '{"题": "河", "good": true}')
    assert not first.is_complete


@pytest.mark.parametrize(
    ("schema", "about"),
    [
        ({"type": "strin"}, "Invalid type: strin"),
        ({"type": "string", "pattern": "("}, "unclosed group"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"x-guidance": {"lenient": True}, "not": {}}, "not"),
        ({"$ref": "https://example.org/schema"}, "fetch"),
        ({"$ref": "#/$defs/nothing"}, "does not exist"),
        ({"enum": []}, "nsatisfiable"),
        ({"$ref": "#"}, "nothing satisfies it"),
        ({"properties": {"a": {"$ref": "#"}}, "required": ["a"], "type": "object"}, "too many"),
        ({"type": "string", "pattern": "^(a{1000}){1000}$"}, "too many"),
        ({"multipleOf": 99991}, "remainders"),
    ],
)
async def test_a_schema_that_cannot_be_followed_is_refused_with_the_reason(
    grammars: Grammars, schema: dict[str, Any], about: str
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        await grammars.compile(of_schema(json.dumps(schema)))
    assert refused.value.param == "response_format"
    assert about.lower() in str(refused.value).lower()
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("constraint", "fits", "breaks"),
    [
        (Constraint("regex", "[一-龥]{3}"), "河水流", "river"),
        (Constraint("choice", '["静", "静夜", "\\"a\\nb"]'), '"a\nb', "悲"),
        (
            Constraint("grammar", 'start: line "\\n" line\nline: /[一-龥]{2}/'),
            "河水\n月亮",
            "河水月",
        ),
        (Constraint("grammar", 'root ::= line "。"\nline ::= [一-龥] "水"'), "河水。", "河月"),
    ],
)
async def test_texts_follow_other_constraints_too(
    grammars: Grammars, base: BaseModel, constraint: Constraint, fits: str, breaks: str
) -> None:
    grammar = await grammars.compile(constraint)
    matcher = grammar.matcher()
    assert accepts(matcher, base, fits)
    assert matcher.allowed()[min(base.end_tokens)]
    assert not accepts(grammar.matcher(), base, breaks)


async def test_a_choice_may_begin_another(grammars: Grammars, base: BaseModel) -> None:
    grammar = await grammars.compile(Constraint("choice", '["静", "静夜"]'))
    assert accepts(grammar.matcher(), base, "静夜")
    matcher = grammar.matcher()
    assert accepts(matcher, base, "静")
    assert not matcher.is_complete
    assert matcher.allowed()[min(base.end_tokens)]


@pytest.mark.parametrize(
    ("kind", "text", "about"),
    [
        ("regex", "(", "unclosed group"),
        ("regex", "(a{1000}){1000}", "too many"),
        ("regex", "(?=a)b", "look-around"),
        ("grammar", "start: foo", "unknown name"),
        ("grammar", "root ::= foo", "'foo' not found"),
        ("grammar", "start: start", "nothing satisfies it"),
        ("grammar", "start: " + "(" * 300 + '"a"' + ")" * 300, "too deeply nested"),
        ("grammar", 'start: "a" ' + ":" * 9 + "\nb: a " * 600, "more than 500 rules"),
        ("grammar", "x" * 70_000, "longer than"),
        ("grammar", 'start: %json {"multipleOf": 99991}', "contains '%json'"),
        ("grammar", "start: a\na[temperature=0.5]: /a+/", "temperature"),
    ],
)
async def test_other_constraints_that_cannot_be_followed_are_refused_by_their_field(
    grammars: Grammars, kind: Any, text: str, about: str
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        await grammars.compile(Constraint(kind, text, "guided_it"))
    assert refused.value.param == "guided_it"
    assert about.lower() in str(refused.value).lower()
    assert "'guided_it'" in str(refused.value)
    assert len(str(refused.value)) < 400


async def test_a_schema_is_compiled_once_until_it_fails(grammars: Grammars) -> None:
    first = await grammars.compile(of_schema(json.dumps(POEM)))
    assert await grammars.compile(of_schema(json.dumps(POEM))) is first
    first.matcher().take(5)  # no answer begins so
    assert first.failed
    assert await grammars.compile(of_schema(json.dumps(POEM))) is not first


async def test_a_schema_that_takes_too_long_is_refused_and_others_go_on(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def slow(_: object) -> str:
        release.wait(60)
        return ""

    monkeypatch.setattr(grammar_module, "_COMPILE_SECONDS", 0.05)
    monkeypatch.setattr(grammar_module, "_first_problem", slow)
    with pytest.raises(InvalidRequestError, match="longer than"):
        await grammars.compile(of_schema('{"type": "integer"}'))
    monkeypatch.undo()
    assert await grammars.compile(of_schema(json.dumps(POEM)))
    release.set()
