"""Rows as token ids, in the one form that training and serving share (`verse.prompt.render`)."""

import hashlib
import re
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from typing import Any, cast

import msgspec

from verse.prompt import Message, PromptError, PromptFormat, Rendered, Tokenizer, render
from verse.terminal import counted
from verse_trainer.config import TrainConfig
from verse_trainer.data_set.rows import DataRow
from verse_trainer.errors import DataSetError

_LINE_END = re.compile(r"\n|\Z")
_SHOWN_PLACES = 20


class EncodedRow(msgspec.Struct, frozen=True, kw_only=True):
    """One conversation, up to the last token that is learned."""

    token_ids: tuple[int, ...]
    targets: tuple[int, ...]
    """Places of the tokens to predict; never 0, which nothing comes before."""
    end_token: int
    """Ends the answer."""
    place: str
    """File and line, for errors."""
    source: str = ""
    """Id of the poem, if it is recorded."""
    poem: str = ""
    """What was answered, as text."""

    @property
    def length(self) -> int:
        """Tokens the model reads: all but the last, which is only predicted."""
        return len(self.token_ids) - 1

    @property
    def num_tokens(self) -> int:
        """Tokens, the frame included."""
        return len(self.token_ids)

    @property
    def weight(self) -> int:
        """Its share in a loss per token."""
        return len(self.targets)


class LongRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row that was longer than allowed, and what became of it."""

    place: str
    """File and line."""
    num_tokens: int
    """Before."""
    was_cut: bool
    """Else it was left out."""


class Encoder:
    """Encodes conversations for one run; what is too long is cut, left out or refused.

    A row is cut at the end of a line of its last answer. What ends an answer is not learned of it:
    the poem does not end there. One of which not even a line fits is left out.
    """

    def __init__(
        self, config: TrainConfig, tokenizer: Tokenizer, context_length: int, system: str | None
    ) -> None:
        self._tokenizer = tokenizer
        self._mask_prompt = config.mask_prompt
        self._long_rows = config.long_rows
        self.long_rows: list[LongRow] = []
        """All that were too long so far, in the order they came."""
        self._limit = min(config.max_seq_length, context_length)
        self._limit_name = (
            "max_seq_length" if config.max_seq_length <= context_length else "the model's context"
        )
        self.prompt_format = PromptFormat(format=config.prompt_format, system=system)

    @property
    def limit(self) -> str:
        """What a row may have: `max_seq_length allows 512 tokens`."""
        return f"{self._limit_name} allows {counted(self._limit, 'token')}"

    def fit(
        self,
        messages: Sequence[Message],
        place: str,
        source: str = "",
        not_learned: Collection[int] = (),
    ) -> EncodedRow | None:
        """Encode one conversation, cut if it has to be; None if it is left out.

        Raises:
            DataSetError: it has no answer, does not fit the format, or is too long for a run that
                stops at such rows.
        """
        num_tokens = len(self._rendered(messages, place).token_ids)
        if num_tokens <= self._limit or self._long_rows == "stop":
            return self.encode(messages, place, source, not_learned)
        shorter = self._cut(messages, place) if self._long_rows == "cut" else None
        was_cut = shorter is not None
        self.long_rows.append(LongRow(place=place, num_tokens=num_tokens, was_cut=was_cut))
        return (
            None
            if shorter is None
            else _without_end(self.encode(shorter, place, source, not_learned))
        )

    def _cut(self, messages: Sequence[Message], place: str) -> list[Message] | None:
        """With as many lines of the last answer as fit; None if none does."""
        if not messages or messages[-1].role != "assistant":
            return None
        *before, last = messages
        ends = [match.start() for match in _LINE_END.finditer(last.content)]

        def cut(num_lines: int) -> list[Message]:
            return [*before, Message("assistant", last.content[: ends[num_lines - 1]])]

        def is_too_long(num_lines: int) -> bool:
            return len(self._rendered(cut(num_lines), place).token_ids) > self._limit

        num_lines = bisect_left(range(1, len(ends) + 1), True, key=is_too_long)
        shorter = cut(num_lines) if num_lines else None
        return shorter if shorter and shorter[-1].content.strip() else None

    def _rendered(self, messages: Sequence[Message], place: str) -> Rendered:
        try:
            return render(messages, self.prompt_format, self._tokenizer)
        except PromptError as error:
            raise DataSetError(f"{place}: {error}") from error

    def encode(
        self,
        messages: Sequence[Message],
        place: str,
        source: str = "",
        not_learned: Collection[int] = (),
    ) -> EncodedRow:
        """Encode one conversation whole.

        Args:
            messages: Its turns.
            place: For errors.
            source: Id of its poem.
            not_learned: Indices of assistant's turns that are only read.

        Raises:
            DataSetError: it is too long, has no answer, or does not fit the format.
        """
        rendered = self._rendered(messages, place)
        self._check_length(len(rendered.token_ids), place)
        answers = _learned_answers(rendered.mask, messages, not_learned)
        learned = answers if self._mask_prompt else [True] * len(answers)
        targets = tuple(i for i, is_target in enumerate(learned) if is_target and i > 0)
        if not targets or not any(answers):
            raise DataSetError(f"{place}: it has no answer to learn; add an assistant message.")
        ids = rendered.token_ids
        end_token = ids[max(i for i, is_answer in enumerate(answers) if is_answer)]
        return EncodedRow(
            token_ids=ids[: targets[-1] + 1],
            targets=targets,
            end_token=end_token,
            place=place,
            source=source,
            poem="\n".join(m.content for m in messages if m.role == "assistant"),
        )

    def _check_length(self, length: int, place: str) -> None:
        if length > self._limit:
            raise DataSetError(
                f"{place}: it has {length} tokens, and {self._limit_name} allows {self._limit}; "
                "shorten the poem, take it out, or let --long-rows cut or skip it."
            )


def _learned_answers(
    mask: Sequence[bool], messages: Sequence[Message], not_learned: Collection[int]
) -> Sequence[bool]:
    """The mask without the answers that are only read: each answer is one run of it, in order."""
    if not not_learned:
        return mask
    indices = (i for i, message in enumerate(messages) if message.role == "assistant")
    kept: list[bool] = []
    for is_answer, run in groupby(mask):
        is_learned = is_answer and next(indices) not in not_learned
        kept += [is_learned for _ in run]
    return kept


def _without_end(row: EncodedRow) -> EncodedRow:
    """A row whose last answer goes on: what ends an answer is not learned of it."""
    targets = row.targets[:-1]
    return msgspec.structs.replace(row, token_ids=row.token_ids[: targets[-1] + 1], targets=targets)


def encode_rows(rows: Sequence[DataRow], encoder: Encoder) -> tuple[EncodedRow, ...]:
    """Encode all rows; those that the encoder leaves out are missing.

    Raises:
        DataSetError: the first row that cannot be learned, with file and line; or all are too long.
    """
    fitting = (
        encoder.fit(
            row.example.messages, row.place, row.example.source, row.example.not_learned or ()
        )
        for row in rows
    )
    encoded = tuple(row for row in fitting if row is not None)
    if rows and not encoded:
        raise DataSetError(f"{rows[0].path}: all rows are too long; {encoder.limit}.")
    return encoded


def long_row_notes(encoder: Encoder) -> Iterator[str]:
    """What became of rows that were too long: a sentence with all their places for each fate."""
    for was_cut, fate in ((True, "cut at a line's end"), (False, "left out")):
        places = [row.place for row in encoder.long_rows if row.was_cut == was_cut]
        if places:
            rows = "1 row was" if len(places) == 1 else f"{len(places)} rows were"
            shown = ", ".join(places[:_SHOWN_PLACES])
            more = f" and {len(places) - _SHOWN_PLACES} more" if places[_SHOWN_PLACES:] else ""
            yield f"{rows} too long and {fate} ({encoder.limit}): {shown}{more}."


def common_system(rows: Sequence[DataRow]) -> str | None:
    """The system message all rows share, which the server then adds; None if they differ."""
    found = {
        next((m.content for m in row.example.messages if m.role == "system"), None) for row in rows
    }
    return found.pop() if len(found) == 1 else None


def recorded_format(
    prompt_format: PromptFormat, row: EncodedRow, tokenizer: Tokenizer
) -> PromptFormat:
    """What `prompt.json` shall say: the frame, what ends a poem, and whose template it was."""
    names = {token_id: token for token, token_id in tokenizer.get_added_vocab().items()}
    last = names.get(row.end_token)
    # `seed-chatml` needs no template: its frame is written in `verse.prompt`.
    has_template = prompt_format.format != "seed-chatml"
    return msgspec.structs.replace(
        prompt_format,
        stop=() if last is None else (last,),
        template_sha256=_template_hash(tokenizer) if has_template else None,
    )


def rows_hash(rows: Sequence[EncodedRow]) -> str:
    """SHA-256 over what is learned: ids and targets in file order, not where they came from."""
    content = [(row.token_ids, row.targets) for row in rows]
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()


def _template_hash(tokenizer: Tokenizer) -> str | None:
    template = cast(Any, tokenizer).chat_template
    return hashlib.sha256(template.encode()).hexdigest() if isinstance(template, str) else None
