"""Rows as token ids, in the one form that training and serving share (`verse.prompt.render`)."""

import hashlib
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from verse.prompt import Message, PromptError, PromptFormat, Tokenizer, render
from verse_trainer.config import TrainConfig
from verse_trainer.data_set.rows import DataRow
from verse_trainer.errors import DataSetError


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


class Encoder:
    """Encodes conversations for one run, and refuses what cannot be learned whole."""

    def __init__(
        self, config: TrainConfig, tokenizer: Tokenizer, context_length: int, system: str | None
    ) -> None:
        self._tokenizer = tokenizer
        self._mask_prompt = config.mask_prompt
        self._limit = min(config.max_seq_length, context_length)
        self._limit_name = (
            "max_seq_length" if config.max_seq_length <= context_length else "the model's context"
        )
        self.prompt_format = PromptFormat(format=config.prompt_format, system=system)

    def encode(self, messages: Sequence[Message], place: str, source: str = "") -> EncodedRow:
        """Encode one conversation.

        Raises:
            DataSetError: it is too long, has no answer, or does not fit the format.
        """
        try:
            rendered = render(messages, self.prompt_format, self._tokenizer)
        except PromptError as error:
            raise DataSetError(f"{place}: {error}") from error
        self._check_length(len(rendered.token_ids), place)
        learned = rendered.mask if self._mask_prompt else [True] * len(rendered.mask)
        targets = tuple(i for i, is_target in enumerate(learned) if is_target and i > 0)
        if not targets or not any(rendered.mask):
            raise DataSetError(f"{place}: it has no answer to learn; add an assistant message.")
        ids = rendered.token_ids
        end_token = ids[max(i for i, is_answer in enumerate(rendered.mask) if is_answer)]
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
                "shorten the poem or take it out."
            )


def encode_rows(rows: Sequence[DataRow], encoder: Encoder) -> tuple[EncodedRow, ...]:
    """Encode all rows.

    Raises:
        DataSetError: the first row that cannot be learned, with file and line.
    """
    return tuple(
        encoder.encode(row.example.messages, row.place, row.example.source) for row in rows
    )


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
