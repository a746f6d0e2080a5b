"""The shapes of a row of JSON: one table, asked from the top, for every command that reads poems.

chosen and rejected                             a preference pair; no poem
messages; prompt and completion; text alone     a row of mlx-lm, see `conversations`
image and response                              the list that the original project's window edits
checkpoint_path, with title or theme, and       the original project's generation
body, response or generation
candidate; adapter or sampling with theme, text a poem of `verse generate` or `verse judge`
theme or title, and response                    what a model answered
theme or title, with text, poem or body         a record
conversations                                   ShareGPT's turns
instruction and output                          alpaca's rows
title, rhythmic or 题目, with paragraphs,       a poem of a Chinese corpus; its script is kept
content or 正文

A row is told apart by its keys alone. What a model wrote and nobody decided about is unreviewed;
how a row says what was decided is read by `verse.verdicts`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from verse.poem_files.conversations import (
    ChatmlError,
    Conversation,
    ConversationShape,
    ShapeError,
    decode_conversation,
    looks_like_conversation,
    parse_chatml,
)
from verse.poem_files.pieces import Draft
from verse.records import Origin, looks_like_id
from verse.verdicts import Reading

Keys = Mapping[str, msgspec.Raw]
Row = bytes | msgspec.Raw

THEME_KEYS = ("theme", "title")
TEXT_KEYS = ("text", "poem", "body")
_ANSWER_KEYS = ("body", "response", "generation")
_CONVERSATION_KINDS: Mapping[ConversationShape, str] = {
    "messages": "conversations",
    "completion": "prompt and completion rows",
    "seed": "rows of the original project",
    "chatml": "ChatML rows",
    "titled": "title and poem rows",
}

_CHINESE_THEMES = "题目 标题 题名 诗题 诗名 篇名 词牌 題目 標題 題名 詩題 詩名"
_CHINESE_TEXTS = "正文 内容 诗文 诗句 诗歌 原文 诗 內容 詩文 詩句 詩歌 詩"
CORPUS_THEME_KEYS = ("title", "rhythmic", "theme", *_CHINESE_THEMES.split())
CORPUS_TEXT_KEYS = ("paragraphs", "para", "content", "contents", *_CHINESE_TEXTS.split())
_FIELD_KEYS = {
    "author": ("author", "作者", "诗人", "詩人", "poet"),
    "date": ("date", "日期", "写作时间", "创作时间", "写作日期"),
}
_ROLES = {"gpt": "assistant", "assistant": "assistant", "bing": "assistant", "system": "system"}
"""Of ShareGPT's speakers; who is none of these asks."""

_NOT_POEMS = {
    "nbformat": "it is a Jupyter notebook, and what stands in it is code and its output; save the "
    "poems as text",
    "entry": "it is a decision; keep decisions in a file of their own",
    "chosen": "it is a preference pair; `verse train --method dpo` reads those",
}


class Shape(msgspec.Struct, frozen=True):
    """One shape of rows."""

    fits: Callable[[Keys], bool]
    read: Callable[[Row, Reading], Draft]
    """Raises ShapeError, and DecodeError for a value of the wrong type."""
    by_model: bool = False
    """Whether a model wrote it: without a decision it is unreviewed."""


def shape_of(keys: Keys) -> Shape:
    """The first shape of the table that fits.

    Raises:
        ShapeError: none does; says what is missing.
    """
    for key, problem in _NOT_POEMS.items():
        if key in keys:
            raise ShapeError(problem)
    for shape in _SHAPES:
        if shape.fits(keys):
            return shape
    if _has(keys, *TEXT_KEYS, "response"):
        raise ShapeError("it has a poem and no theme or title")
    raise ShapeError(f"it has no poem: its keys are {', '.join(keys) or 'none'}")


def _has(keys: Keys, *names: str) -> bool:
    return any(name in keys for name in names)


def _is_listed(keys: Keys) -> bool:
    return {"image", "response"} <= keys.keys()


def _is_generation(keys: Keys) -> bool:
    has_theme = _has(keys, *THEME_KEYS, "prompt_phase", "prompt")
    return "checkpoint_path" in keys and has_theme and _has(keys, *_ANSWER_KEYS)


def _is_judged(keys: Keys) -> bool:
    return "candidate" in keys


def _is_candidate(keys: Keys) -> bool:
    return {"theme", "text"} <= keys.keys() and _has(keys, "adapter", "sampling")


def _is_answer(keys: Keys) -> bool:
    return _has(keys, *THEME_KEYS) and "response" in keys


def _is_record(keys: Keys) -> bool:
    return _has(keys, *THEME_KEYS) and _has(keys, *TEXT_KEYS)


def _is_share_gpt(keys: Keys) -> bool:
    return "conversations" in keys


def _is_instruction(keys: Keys) -> bool:
    return {"instruction", "output"} <= keys.keys()


def _is_of_corpus(keys: Keys) -> bool:
    return _has(keys, *CORPUS_THEME_KEYS) and _has(keys, *CORPUS_TEXT_KEYS)


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    theme: str | None = None
    title: str | None = None
    text: str | None = None
    poem: str | None = None
    body: str | None = None
    response: str | None = None
    id: Any = None
    source: str | None = None
    origin: Origin | None = None
    author: Any = None
    date: Any = None


class _Listed(msgspec.Struct, frozen=True, kw_only=True):
    image: str
    response: str


class _Generated(msgspec.Struct, frozen=True, kw_only=True):
    title: str | None = None
    theme: str | None = None
    prompt_phase: str | None = None
    prompt: str | None = None
    body: str | None = None
    response: str | None = None
    generation: str | None = None


class _Judged(msgspec.Struct, frozen=True, kw_only=True):
    candidate: msgspec.Raw


class _Said(msgspec.Struct, frozen=True, kw_only=True):
    """A turn; `from` and `value` are ShareGPT's names."""

    speaker: str = msgspec.field(default="", name="from")
    value: str | None = None
    role: str = ""
    content: str = ""


class _ShareGpt(msgspec.Struct, frozen=True, kw_only=True):
    conversations: list[_Said]
    source: str | None = None


class _Instruction(msgspec.Struct, frozen=True, kw_only=True):
    instruction: str
    input: str | None = None
    output: str
    history: list[Any] | None = None


def _conversation(row: Row, _: Reading) -> Draft:
    return _of_turns(decode_conversation(row))


def _of_turns(conversation: Conversation) -> Draft:
    turns = conversation.example.messages
    asked = [turn for turn in turns if turn.role == "user"]
    answers = [turn for turn in turns if turn.role == "assistant"]
    if len(asked) != 1 or len(answers) != 1 or not _in_order(conversation):
        raise ShapeError(
            "it is a longer conversation than a theme and a poem; keep it in a train.jsonl"
        )
    return Draft(
        kind=_CONVERSATION_KINDS[conversation.shape],
        theme=asked[0].content,
        text=answers[0].content,
        source=conversation.example.source,
        origin=conversation.example.origin,
    )


def _share_gpt(row: Row, _: Reading) -> Draft:
    said = msgspec.json.decode(row, type=_ShareGpt)
    turns = [
        {
            "role": _ROLES.get(turn.speaker or turn.role, "user"),
            "content": turn.content if turn.value is None else turn.value,
        }
        for turn in said.conversations
    ]
    as_messages = {"messages": turns, "source": said.source or ""}
    draft = _of_turns(decode_conversation(msgspec.json.encode(as_messages)))
    return msgspec.structs.replace(draft, kind="conversations of ShareGPT")


def _instruction(row: Row, _: Reading) -> Draft:
    asked = msgspec.json.decode(row, type=_Instruction)
    if asked.history:
        raise ShapeError("it is a longer conversation than a theme and a poem")
    return Draft(
        kind="instruction rows",
        theme=(asked.input or "").strip() or asked.instruction,
        text=asked.output,
    )


def _of_corpus(row: Row, _: Reading) -> Draft:
    keys = msgspec.json.decode(row, type=dict[str, Any])
    texts = {key: _joined(keys[key]) for key in CORPUS_TEXT_KEYS if keys.get(key)}
    if len(texts) > 1:
        raise ShapeError(f"it has several texts: {', '.join(texts)}; which is the poem?")
    return Draft(
        kind="poems of a corpus",
        theme=_named(keys, CORPUS_THEME_KEYS),
        text=next(iter(texts.values()), ""),
        fields=_fields({name: _named(keys, names) for name, names in _FIELD_KEYS.items()}),
        may_be_prose=True,
    )


def _fields(said: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What is text and not blank."""
    return tuple((key, value) for key, value in said.items() if isinstance(value, str) and value)


def _joined(value: object) -> str:
    """A text, or its lines; stanzas may be lists of their own.

    Raises:
        ShapeError: it is something else.
    """
    if isinstance(value, str):
        return value
    try:
        parts = msgspec.convert(value, list[str | list[str]])
    except msgspec.ValidationError as error:
        raise ShapeError("its text is neither text nor a list of lines") from error
    nested = any(isinstance(part, list) for part in parts)
    lines = [part if isinstance(part, str) else "\n".join(part) for part in parts]
    return ("\n\n" if nested else "\n").join(lines)


def _named(keys: Mapping[str, Any], names: Iterable[str]) -> str:
    return next((keys[name].strip() for name in names if isinstance(keys.get(name), str)), "")


def _in_order(conversation: Conversation) -> bool:
    roles = [message.role for message in conversation.example.messages]
    return roles in (["user", "assistant"], ["system", "user", "assistant"])


def _listed(row: Row, reading: Reading) -> Draft:
    listed = msgspec.json.decode(row, type=_Listed)
    return Draft(
        kind="poems of the original project's list",
        theme=listed.image,
        text=listed.response,
        origin=_taken_as(reading),
    )


def _generation(row: Row, reading: Reading) -> Draft:
    made = msgspec.json.decode(row, type=_Generated)
    theme = next((t for t in (made.title, made.theme, made.prompt_phase) if t is not None), None)
    texts = (made.body, made.response, made.generation)
    return Draft(
        kind="poems the original project's model wrote",
        theme=_asked(made.prompt or "") if theme is None else theme,
        text=next((text for text in texts if text is not None), ""),
        origin=_taken_as(reading),
    )


def _asked(prompt: str) -> str:
    """The theme in a whole prompt, or the prompt itself."""
    try:
        return next((m.content for m in parse_chatml(prompt) if m.role == "user"), prompt)
    except ChatmlError:
        return prompt


def _judged(row: Row, reading: Reading) -> Draft:
    return _candidate(msgspec.json.decode(row, type=_Judged).candidate, reading)


def _candidate(row: Row, reading: Reading) -> Draft:
    record = msgspec.json.decode(row, type=_Record)
    return Draft(
        kind="poems of verse generate",
        theme=record.theme or "",
        text=record.text or "",
        source=_id(record),
        origin=_taken_as(reading),
    )


def _answer(row: Row, reading: Reading) -> Draft:
    record = _decoded(row)
    return Draft(
        kind="answers of a model",
        theme=_theme(record),
        text=record.response or "",
        source=record.source or "",
        origin=record.origin or _taken_as(reading),
    )


def _record(row: Row, _: Reading) -> Draft:
    record = _decoded(row)
    texts = [getattr(record, key) for key in TEXT_KEYS]
    return Draft(
        kind="theme and poem records",
        theme=_theme(record),
        text=next((text for text in texts if text is not None), ""),
        id=_id(record),
        source=record.source or "",
        origin=record.origin or "poet",
        fields=_fields({"author": record.author, "date": record.date}),
    )


def _decoded(row: Row) -> _Record:
    """A record with one text.

    Raises:
        ShapeError: it has several.
    """
    record = msgspec.json.decode(row, type=_Record)
    texts = [key for key in (*TEXT_KEYS, "response") if getattr(record, key) is not None]
    if len(texts) > 1:
        raise ShapeError("it has several poems: text, poem, body and response mean the same")
    return record


def _theme(record: _Record) -> str:
    return (record.title if record.theme is None else record.theme) or ""


def _id(record: _Record) -> str:
    """Verse's own; what other programs number their rows by means nothing here."""
    return record.id if looks_like_id(record.id) else ""


def _taken_as(reading: Reading) -> Origin:
    return "edited" if reading.verdict == "edited" else "accepted"


_SHAPES = (
    Shape(looks_like_conversation, _conversation),
    Shape(_is_listed, _listed, by_model=True),
    Shape(_is_generation, _generation, by_model=True),
    Shape(_is_judged, _judged, by_model=True),
    Shape(_is_candidate, _candidate, by_model=True),
    Shape(_is_answer, _answer, by_model=True),
    Shape(_is_record, _record),
    Shape(_is_share_gpt, _share_gpt),
    Shape(_is_instruction, _instruction),
    Shape(_is_of_corpus, _of_corpus),
)
