"""Preference tuning: of two poems on one theme, make the better one likelier than the worse.

Direct preference optimisation (Rafailov et al. 2023, equation 7), over the tokens of the poems
alone, with a term that keeps the chosen poem likely by itself:

    margin = beta * ((log p(chosen) - reference) - (log p(rejected) - reference))
    loss   = -log sigmoid(margin) - sft_weight * log p(chosen) / tokens of chosen

The references are the log-probabilities under the weights the run starts from. They never change,
so they are two numbers per pair, computed once; no second model is held.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import msgspec
import numpy as np

from verse import jsonl, verdicts
from verse.atomic_file import replace_file
from verse.poem_files.conversations import ShapeError
from verse.prompt import Message
from verse.records import PreferencePair
from verse_trainer.data_parallel import DataParallel
from verse_trainer.encoding import EncodedRow, Encoder
from verse_trainer.errors import DataSetError
from verse_trainer.events import PreferenceFigures
from verse_trainer.objective import Batch, Part, RowLoss

REFERENCES_FILE = "references.json"
PAIRS_FILE = "pairs.jsonl"
_RAW = msgspec.json.Decoder(msgspec.Raw)

LogProbabilities = tuple[float, float]
"""Of the chosen and the rejected poem."""


class EncodedPair(msgspec.Struct, frozen=True, kw_only=True):
    """Two answers to one prompt."""

    chosen: EncodedRow
    rejected: EncodedRow

    @property
    def length(self) -> int:
        """Tokens the model reads of the longer one."""
        return max(self.chosen.length, self.rejected.length)

    @property
    def num_tokens(self) -> int:
        """Tokens of both."""
        return self.chosen.num_tokens + self.rejected.num_tokens

    @property
    def weight(self) -> int:
        """A pair counts once, however long it is."""
        return 1


class References(msgspec.Struct, frozen=True, kw_only=True):
    """What `references.json` holds."""

    run: str
    """Hash of the pairs, the base and the start; references of other ones are not used."""
    parts: dict[Part, list[LogProbabilities]]


class DpoObjective:
    """Preference pairs and their loss."""

    num_figures = 4
    has_dropout = False  # the references were computed without it, and its noise would be a margin

    def __init__(
        self,
        row_loss: RowLoss,
        parts: Mapping[Part, Sequence[EncodedPair]],
        *,
        beta: float,
        sft_weight: float,
    ) -> None:
        self._parts = parts
        self._beta = beta
        self._sft_weight = sft_weight
        self.row_loss: RowLoss = row_loss
        # Zeros cost what numbers cost, so that one step can be measured before they are known.
        self._references: Mapping[Part, Sequence[LogProbabilities]] = {
            part: [(0.0, 0.0)] * len(pairs) for part, pairs in parts.items()
        }

    def examples(self, part: Part) -> Sequence[EncodedPair]:
        """The pairs of one part."""
        return self._parts.get(part, ())

    def batch(self, part: Part, indices: Sequence[int]) -> Batch:
        """Chosen rows in the first half, rejected ones in the second; references (2, pairs)."""
        pairs = [self.examples(part)[index] for index in indices]
        rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        references = [self._references[part][index] for index in indices]
        return (*self.row_loss.collate(rows), mx.array(references).T)

    def losses(self, model: nn.Module, batch: Batch) -> tuple[mx.array, mx.array]:
        """(pairs,) losses; (pairs, 4) margin, whether it is above 0, both log-probabilities."""
        return self.of_rows(self.row_loss(model, batch[:-1]), batch)

    def of_rows(self, losses: mx.array, batch: Batch) -> tuple[mx.array, mx.array]:
        """The same from what the rows lose."""
        *rows, references = batch
        log_probabilities = -mx.reshape(losses, (2, -1))
        chosen, rejected = log_probabilities
        gain = log_probabilities - references
        margin = self._beta * (gain[0] - gain[1])
        num_chosen = self.row_loss.num_targets(rows)[: chosen.shape[0]]
        pair_losses = mx.logaddexp(0.0, -margin) - self._sft_weight * chosen / num_chosen
        figures = [margin, (margin > 0).astype(mx.float32), chosen, rejected]
        return pair_losses, mx.stack(figures, axis=1)

    def preference(self, means: Sequence[float]) -> PreferenceFigures | None:
        """The figures by name; None before there are any."""
        if not means:
            return None
        margin, accuracy, chosen, rejected = means
        return PreferenceFigures(
            margin=margin, accuracy=accuracy, chosen_logp=chosen, rejected_logp=rejected
        )

    def refer_to(
        self,
        model: nn.Module,
        folder: Path,
        run: str,
        batch_size: int,
        parallel: DataParallel | None = None,
    ) -> None:
        """Take the references from `references.json`, or compute them and write it.

        Args:
            model: With the weights the run starts from.
            folder: Of the adapter.
            run: What they depend on.
            batch_size: Pairs at a time.
            parallel: The ranks among which the pairs are shared out; rank 0 has the folder.

        Raises:
            OSError: the disk is full or read-only.
        """
        parallel = parallel or DataParallel()
        file = folder / REFERENCES_FILE
        kept = parallel.from_first(lambda: msgspec.json.encode(_read_references(file, run)))
        references = msgspec.json.decode(kept, type=References | None)
        if references is None:
            parts: dict[Part, list[LogProbabilities]] = {
                part: self._log_probabilities(model, part, batch_size, parallel)
                for part in self._parts
            }
            references = References(run=run, parts=parts)
            if parallel.is_first:
                replace_file(file, [msgspec.json.encode(references)])
        self._references = references.parts

    def _log_probabilities(
        self, model: nn.Module, part: Part, batch_size: int, parallel: DataParallel
    ) -> list[LogProbabilities]:
        """Of all pairs on all ranks, each of which computes every so many-th."""
        model.eval()
        count = len(self.examples(part))
        own = range(parallel.rank, count, parallel.size)
        found = np.zeros((count, 2))
        for start in range(0, len(own), batch_size):
            indices = own[start : start + batch_size]
            _, figures = self.losses(model, self.batch(part, indices))
            found[list(indices)] = np.array(figures)[:, 2:]
        summed = np.reshape(parallel.sum_numbers(found.ravel().tolist()), (count, 2))
        return [(chosen, rejected) for chosen, rejected in summed.tolist()]


def read_pairs(file: Path, encoder: Encoder) -> tuple[EncodedPair, ...]:
    """Read and encode all pairs of one file.

    Raises:
        DataSetError: the file is missing, or a line is no pair that can be learned; names it.
    """
    try:
        scanned = list(verdicts.scan(file, _RAW))
    except OSError as error:
        raise DataSetError(f"{file} cannot be read: {error.strerror}.") from error
    encoded = (_encode(pair, f"{file}:{line}", encoder) for line, pair in scanned)
    return tuple(pair for pair in encoded if pair is not None)


class _Input(msgspec.Struct, frozen=True):
    messages: tuple[Message, ...]
    tools: tuple[msgspec.Raw, ...] = ()


class _OpenAiPair(msgspec.Struct, frozen=True):
    """A row of OpenAI's preference files."""

    input: _Input
    preferred_output: tuple[Message, ...]
    non_preferred_output: tuple[Message, ...]


def _decode_pair(row: msgspec.Raw) -> tuple[list[Message], PreferencePair]:
    """The turns before the answer, and the two answers.

    Raises:
        ShapeError, msgspec.DecodeError: the row is no pair.
    """
    if "input" not in msgspec.json.decode(row, type=dict[str, msgspec.Raw]):
        pair = msgspec.json.decode(row, type=PreferencePair)
        return [Message("user", pair.prompt)], pair
    given = msgspec.json.decode(row, type=_OpenAiPair)
    if given.input.tools:
        raise ShapeError("it uses tools, which a poem has no use for")
    turns = list(given.input.messages)
    if not turns or turns[-1].role != "user":
        raise ShapeError("the last message of its input is not the user's")
    chosen, rejected = map(_answer, (given.preferred_output, given.non_preferred_output))
    return turns, PreferencePair(prompt=turns[-1].content, chosen=chosen, rejected=rejected)


def _answer(turns: Sequence[Message]) -> str:
    if len(turns) != 1 or turns[0].role != "assistant":
        raise ShapeError("each of its outputs must be one message of the assistant")
    return turns[0].content


def _encode(
    row_or_error: msgspec.Raw | jsonl.JsonlError, place: str, encoder: Encoder
) -> EncodedPair | None:
    """A pair; None if one of its poems is left out for its length."""
    if isinstance(row_or_error, verdicts.LeftOutError):
        raise DataSetError(str(row_or_error))
    try:
        if isinstance(row_or_error, jsonl.JsonlError):
            raise ShapeError(row_or_error.problem)
        turns, pair = _decode_pair(row_or_error)
    except (ShapeError, msgspec.DecodeError, UnicodeDecodeError) as error:
        problem = str(error).rstrip(".")
        raise DataSetError(
            f"{place}: this is not a pair of prompt, chosen and rejected: {problem}."
        ) from error
    if pair.chosen == pair.rejected:
        raise DataSetError(f"{place}: chosen and rejected are the same; take the pair out.")

    def row(text: str, source: str) -> EncodedRow | None:
        whole = [*turns, Message("assistant", text)]
        return encoder.fit(encoder.prompt_format.with_system(whole), place, source)

    chosen = row(pair.chosen, pair.chosen_source)
    rejected = row(pair.rejected, pair.rejected_source)
    if chosen is None or rejected is None:
        return None
    return EncodedPair(chosen=chosen, rejected=rejected)


def _read_references(file: Path, run: str) -> References | None:
    """None if there are none, or those of something else."""
    try:
        references = msgspec.json.decode(file.read_bytes(), type=References)
    except (OSError, ValueError):
        return None
    return references if references.run == run else None
