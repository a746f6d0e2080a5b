"""What a run learns from: the files of its data folder, read and encoded."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from verse.adapter_folder import PROMPT_FILE
from verse.base_model import BaseModel, BaseTokenizer
from verse.poem_files import doubts
from verse.prompt import POEM_SYSTEM, PromptFormat
from verse_trainer.config import TrainConfig
from verse_trainer.data_set.rows import DataRow, read_rows
from verse_trainer.decoder import is_known, trains_head
from verse_trainer.dpo import PAIRS_FILE, DpoObjective, EncodedPair, read_pairs
from verse_trainer.encoding import (
    EncodedRow,
    Encoder,
    common_system,
    encode_rows,
    long_row_notes,
    recorded_format,
    rows_hash,
)
from verse_trainer.errors import DataSetError
from verse_trainer.objective import (
    Objective,
    PackedLoss,
    Part,
    RowLoss,
    SftObjective,
    WholeLoss,
)

_FILES: Mapping[Part, str] = {"train": "train.jsonl", "valid": "valid.jsonl", "test": "test.jsonl"}


@dataclass(frozen=True, kw_only=True)
class Material:
    """The examples of a run, encoded, and what must be known of them."""

    rows: Mapping[Part, Sequence[EncodedRow]]
    """Empty parts are missing. For DPO: both rows of each pair, chosen ones first."""
    pairs: Mapping[Part, Sequence[EncodedPair]] | None
    """DPO only."""
    prompt_format: PromptFormat
    """As `prompt.json` shall record it."""
    doubts: tuple[str, ...] = ()
    """A sentence for each key of a file of rows that sounds like a verdict and was not obeyed, and
    for rows that were too long."""

    @property
    def poems(self) -> list[tuple[str, str]]:
        """(source, text) of what is learned; of pairs, the chosen poems."""
        learned = self.rows["train"]
        if self.pairs is not None:
            learned = [pair.chosen for pair in self.pairs["train"]]
        return [(row.source or row.place, row.poem) for row in learned]

    def row_loss(
        self,
        base: BaseModel,
        config: TrainConfig,
        num_frozen: int = 0,
        *,
        is_packed: bool = True,
    ) -> RowLoss:
        """The loss of any of the rows.

        Args:
            base: Adapted.
            config: Of the run.
            num_frozen: Layers that are run once for all.
            is_packed: Pack the rows if the model's blocks are known.
        """
        if not is_packed or not is_known(base.model) or trains_head(base.model):
            return WholeLoss(base.model)
        return PackedLoss(
            base.model,
            (row for part in self.rows.values() for row in part),
            base.dtype,
            num_frozen=num_frozen,
            checkpoint=config.grad_checkpoint,
        )

    def objective(self, row_loss: RowLoss, config: TrainConfig) -> Objective:
        """Bind the examples to their loss."""
        if self.pairs is None:
            return SftObjective(row_loss, self.rows)
        return DpoObjective(row_loss, self.pairs, beta=config.beta, sft_weight=config.sft_weight)

    def hash(self, part: Part) -> str:
        """SHA-256 of the encoded rows of one part."""
        return rows_hash(self.rows.get(part, ()))


def check_files(config: TrainConfig) -> None:
    """Read every row that will be needed, without a tokenizer.

    Raises:
        DataSetError: a file is missing or empty, or a line cannot be understood; names it.
    """
    folder = data_folder(config)
    if config.train and config.method == "sft":
        _sft_rows(folder, config)
    if config.train and config.method == "dpo" and not _pair_files(folder):
        raise DataSetError(f"{folder} has neither {PAIRS_FILE} nor train.jsonl with pairs.")
    if config.test:
        _read(folder, "test")


def read_material(config: TrainConfig, base: BaseModel | BaseTokenizer) -> Material:
    """Read and encode all parts.

    Raises:
        DataSetError: a file or row cannot be used; names file and line.
    """
    read = _read_preferences if config.method == "dpo" else _read_conversations
    return read(data_folder(config), config, base)


def data_folder(config: TrainConfig) -> Path:
    """Where the rows are."""
    return Path(config.data).expanduser()


def read_test_rows(config: TrainConfig, base: BaseModel, prompt_format: PromptFormat) -> Material:
    """Read the test set alone, in the format an adapter was trained in.

    Raises:
        DataSetError: as for `read_material`.
    """
    encoder = Encoder(
        msgspec.structs.replace(config, prompt_format=prompt_format.format),
        base.hf_tokenizer,
        base.context_length,
        prompt_format.system,
    )
    rows = encode_rows(_read(data_folder(config), "test"), encoder)
    return Material(
        rows={"test": rows},
        pairs=None,
        prompt_format=prompt_format,
        doubts=tuple(long_row_notes(encoder)),
    )


def _read_conversations(
    folder: Path, config: TrainConfig, base: BaseModel | BaseTokenizer
) -> Material:
    parts = _sft_rows(folder, config)
    system = common_system(parts["train"])
    encoder = Encoder(config, base.hf_tokenizer, base.context_length, system)
    rows: dict[Part, Sequence[EncodedRow]] = {
        part: encode_rows(found, encoder) for part, found in parts.items()
    }
    return Material(
        rows=rows,
        pairs=None,
        prompt_format=recorded_format(encoder.prompt_format, rows["train"][0], base.hf_tokenizer),
        doubts=(
            *(doubt for found in parts.values() for doubt in _doubts(found)),
            *long_row_notes(encoder),
        ),
    )


def _doubts(rows: Sequence[DataRow]) -> Iterator[str]:
    for line, doubt in doubts((row.line, row.unknown) for row in rows):
        yield f"{rows[0].path}:{line}: {doubt}."


def _read_preferences(
    folder: Path, config: TrainConfig, base: BaseModel | BaseTokenizer
) -> Material:
    # The tokens of the poems alone, whatever mask_prompt says: the prompt is the same in both.
    masked = msgspec.structs.replace(config, mask_prompt=True)
    encoder = Encoder(masked, base.hf_tokenizer, base.context_length, _system_of_start(config))
    pairs: dict[Part, Sequence[EncodedPair]] = {}
    for part, file in _pair_files(folder).items():
        if found := read_pairs(file, encoder):
            pairs[part] = found
    if "train" not in pairs:
        raise DataSetError(f"{folder} has no pairs to learn from.")
    rows: dict[Part, Sequence[EncodedRow]] = {
        part: [p.chosen for p in found] + [p.rejected for p in found]
        for part, found in pairs.items()
    }
    if config.test:
        rows["test"] = encode_rows(_read(folder, "test"), encoder)
    return Material(
        rows=rows,
        pairs=pairs,
        prompt_format=recorded_format(encoder.prompt_format, rows["train"][0], base.hf_tokenizer),
        doubts=tuple(long_row_notes(encoder)),
    )


def _pair_files(folder: Path) -> dict[Part, Path]:
    """`pairs.jsonl` as `verse curate` exports it, or mlx-lm's two names."""
    if (folder / PAIRS_FILE).exists():
        return {"train": folder / PAIRS_FILE}
    named: dict[Part, Path] = {part: folder / _FILES[part] for part in ("train", "valid")}
    return {part: file for part, file in named.items() if file.exists()}


def _system_of_start(config: TrainConfig) -> str | None:
    """Pairs bring no system message; the adapter they improve was trained with one."""
    if config.resume_adapter_file is not None:
        file = Path(config.resume_adapter_file).expanduser().with_name(PROMPT_FILE)
        try:
            return msgspec.json.decode(file.read_bytes(), type=PromptFormat).system
        except (OSError, ValueError):
            pass
    return POEM_SYSTEM


def _sft_rows(folder: Path, config: TrainConfig) -> dict[Part, list[DataRow]]:
    parts: dict[Part, list[DataRow]] = {"train": _read(folder, "train")}
    if (folder / _FILES["valid"]).exists() and (valid := read_rows(folder / _FILES["valid"])):
        parts["valid"] = valid
    if config.test:
        parts["test"] = _read(folder, "test")
    return parts


def _read(folder: Path, part: Part) -> list[DataRow]:
    file = folder / _FILES[part]
    if not file.exists():
        raise DataSetError(
            f"{folder} has no {file.name}; `verse data split` writes the rows of a run."
        )
    rows = read_rows(file)
    if not rows:
        raise DataSetError(f"{file} is empty; there is nothing to learn or measure.")
    return rows


def hash_of(*parts: str | None) -> str:
    """One SHA-256 over several."""
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
