"""The resident base: what loads, as what, and what is said when nothing does."""

import dataclasses
import json
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from verse import base_model
from verse.base_model import BaseModel, BaseModelError, load_base_model, load_base_tokenizer

import mlx.core as mx  # isort: skip  OpenBLAS must be there first
import mlx.nn as nn  # isort: skip
from mlx.utils import tree_flatten  # isort: skip
from mlx_lm import utils as mlx_lm_utils  # isort: skip
from mlx_lm.models import qwen2  # isort: skip

VERSE_TINY = Path(__file__).parents[2] / "models" / "verse-tiny"
CONFIG: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-6,
    "vocab_size": 8192,
    "rope_theta": 10000.0,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}
QUANTIZED = (nn.QuantizedLinear, nn.QuantizedEmbedding)
on_cpu = pytest.mark.skipif(
    mx.default_device().type != mx.DeviceType.cpu, reason="float32 is for the CPU"
)


def arrays(model: nn.Module) -> dict[str, mx.array]:
    return dict(cast(list[tuple[str, mx.array]], tree_flatten(model.parameters())))


def quantized_layers(model: nn.Module) -> list[str]:
    named = cast(list[tuple[str, nn.Module]], model.named_modules())
    return [name for name, module in named if isinstance(module, QUANTIZED)]


def save(folder: Path, model: nn.Module, config: dict[str, Any], *, tokenizer: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    mlx_lm_utils.save_model(folder, model)
    mlx_lm_utils.save_config(dict(config), folder / "config.json")
    for file in ("tokenizer.json", "tokenizer_config.json") if tokenizer else ():
        shutil.copy(VERSE_TINY / file, folder / file)
    return folder


def random_model(dtype: mx.Dtype = mx.float16) -> nn.Module:
    mx.random.seed(0)
    model = qwen2.Model(qwen2.ModelArgs.from_dict(CONFIG))
    model.set_dtype(dtype)
    return model


def quantized(bits: int = 4, mode: str = "affine") -> tuple[nn.Module, dict[str, Any]]:
    return mlx_lm_utils.quantize_model(random_model(), dict(CONFIG), 32, bits, mode)


@pytest.fixture(scope="module")
def tiny() -> tuple[BaseModel, list[float]]:
    shares: list[float] = []
    return load_base_model(str(VERSE_TINY), shares.append), shares


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model in float16, to be copied and broken."""
    return save(tmp_path_factory.mktemp("models") / "half", random_model(), CONFIG)


@pytest.fixture
def copy(half: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(half, tmp_path / "copy"))


@on_cpu
def test_verse_tiny_is_float32_on_a_cpu(tiny: tuple[BaseModel, list[float]]) -> None:
    base, _ = tiny
    assert base.dtype == mx.float32
    assert {array.dtype for array in arrays(base.model).values()} == {mx.float32}


def test_verse_tiny_says_what_it_is(tiny: tuple[BaseModel, list[float]]) -> None:
    base, _ = tiny
    assert base.id == "verse-tiny"
    assert base.path == VERSE_TINY
    assert base.context_length == 512
    assert base.end_tokens == {0, 2}
    assert base.bytes == sum(array.nbytes for array in arrays(base.model).values())
    assert base.num_parameters == sum(array.size for array in arrays(base.model).values())
    assert base.generation_config["temperature"] == 0.8
    assert base.hf_tokenizer.encode("河", add_special_tokens=False)


def test_what_a_tokenizer_was_made_from_is_not_kept(copy: Path, tmp_path: Path) -> None:
    file = copy / "tokenizer_config.json"
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"tokenizer_class": "Qwen2Tokenizer"})
    )
    whole: Any = load_base_tokenizer(str(copy)).hf_tokenizer
    slim: Any = load_base_model(str(copy)).hf_tokenizer
    assert type(slim).__name__ == "Qwen2Tokenizer"
    large = [
        key for key, kept in vars(slim).items() if isinstance(kept, dict | list) and len(kept) > 999
    ]
    assert large == []
    for text in ("静夜思", "a  <|im_end|>\n"):
        ids = slim.encode(text, add_special_tokens=False)
        assert ids == whole.encode(text, add_special_tokens=False)
        assert slim.decode(ids) == whole.decode(ids)
    assert slim.get_vocab() == whole.get_vocab()
    slim.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "tokenizer.json").is_file()


def test_progress_never_falls_and_reaches_one(tiny: tuple[BaseModel, list[float]]) -> None:
    _, shares = tiny
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_progress_is_told_on_the_way_to_large_models(
    half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verse.base_model._EVAL_BYTES", 1 << 16)
    shares: list[float] = []
    load_base_model(str(half), shares.append)
    assert len(shares) > 3
    assert shares == sorted(shares)
    assert (shares[0] > 0, shares[-1]) == (True, 1)


def test_a_base_is_named_after_its_folder_however_it_is_spelled(
    half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(half)
    assert load_base_model(".").id == "half"
    assert load_base_model(f"../{half.name}/").id == "half"
    monkeypatch.setenv("HOME", str(half.parent))
    assert load_base_model("~/half").id == "half"


@on_cpu
def test_what_does_not_fit_as_float32_keeps_its_type(
    half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verse.base_model.MEMORY_SHARE", 0.0)
    base = load_base_model(str(half))
    assert base.dtype == mx.float16
    assert base.bytes == sum(array.nbytes for array in arrays(base.model).values())
    assert base.num_parameters == sum(array.size for array in arrays(base.model).values())


@on_cpu
@pytest.mark.parametrize(("bits", "mode"), [(4, "affine"), (8, "affine"), (4, "mxfp4")])
def test_a_quantized_base_becomes_float32_while_it_fits(
    tmp_path: Path, bits: int, mode: str
) -> None:
    model, config = quantized(bits, mode)
    folder = save(tmp_path / "quantized", model, config)
    base = load_base_model(str(folder))
    assert quantized_layers(base.model) == []
    assert {array.dtype for array in arrays(base.model).values()} == {mx.float32}
    assert base.dtype == mx.float32
    tokens = mx.array([[5, 900, 77]])
    expected = cast(mx.array, model(tokens)).astype(mx.float32)
    assert mx.allclose(cast(mx.array, base.model(tokens)), expected, rtol=0.02, atol=0.02)


@on_cpu
def test_a_quantized_base_that_does_not_fit_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verse.base_model.MEMORY_SHARE", 0.0)
    base = load_base_model(str(save(tmp_path / "quantized", *quantized())))
    assert len(quantized_layers(base.model)) == 15
    assert base.dtype == mx.float16  # of the norms, not of the packed weights


@on_cpu
def test_whether_a_quantized_base_fits_is_reckoned_from_its_unpacked_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(save(tmp_path / "quantized", *quantized()))
    num_weights = sum(array.size for array in arrays(random_model()).values())
    for room, fits in ((1.2, True), (0.9, False)):
        sizes = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": int(4 * num_weights / 0.6 * room)}
        monkeypatch.setattr("os.sysconf", sizes.__getitem__)
        assert (load_base_model(folder).dtype == mx.float32) is fits


@pytest.mark.parametrize(
    ("config", "context_length"),
    [
        ({"max_position_embeddings": 512}, 512),
        ({"max_position_embeddings": None}, 4096),
        ({}, 4096),
        ({"text_config": {"max_position_embeddings": 32768}}, 32768),
        ({"text_config": None}, 4096),
    ],
)
def test_the_context_is_read_where_models_keep_it(
    tiny: tuple[BaseModel, list[float]], config: dict[str, Any], context_length: int
) -> None:
    assert dataclasses.replace(tiny[0], config=config).context_length == context_length


@pytest.mark.parametrize("text", [None, "", "{"])
def test_a_base_without_readable_sampling_defaults_has_none(copy: Path, text: str | None) -> None:
    if text is not None:
        (copy / "generation_config.json").write_text(text)
    assert load_base_model(str(copy)).generation_config == {}


def complaint_about(folder: Path) -> str:
    with pytest.raises(BaseModelError) as caught:
        load_base_model(str(folder))
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("config.json", None, "is not a model folder: it has no config.json."),
        ("config.json", "{", "cannot be loaded: Expecting"),
        ("config.json", "{}", "cannot be loaded: 'model_type' is missing."),
        ("config.json", "[]", "cannot be loaded: "),
        ("config.json", {"model_type": "poet"}, "Model type poet not supported."),
        ("config.json", {"hidden_size": 32}, "cannot be loaded: Expected shape"),
        ("model.safetensors", None, "lacks model.safetensors, named in its index"),
        ("model.safetensors", "", "has an empty model.safetensors; copy or download it again."),
        ("model.safetensors", "no tensors here", "has no weights in model.safetensors, or only"),
        ("tokenizer.json", "{", "cannot be loaded: "),
        ("generation_config.json", "[]", "cannot be loaded: "),
    ],
)
def test_a_broken_model_folder_is_one_sentence(
    copy: Path, name: str, content: str | dict[str, Any] | None, says: str
) -> None:
    if isinstance(content, dict):
        content = json.dumps({**CONFIG, **content})
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).write_text(content)
    assert says in complaint_about(copy)


def test_a_download_that_stopped_halfway_is_one_sentence(copy: Path) -> None:
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    half = f"{len(whole) // 2:,} of {len(whole):,}"
    said = f"has a model.safetensors that was cut off (bytes: {half}); copy or download it again."
    assert said in complaint_about(copy)
    weights.write_bytes(whole[:40])
    assert "has no weights in model.safetensors, or only their beginning" in complaint_about(copy)


def test_a_pointer_of_git_is_told_from_weights(copy: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (copy / "model.safetensors").write_text(pointer)
    said = "has only Git's pointer to model.safetensors; run `git lfs pull` there"
    assert said in complaint_about(copy)


def test_a_numbered_file_is_missed_without_an_index_too(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "model-00001-of-00003.safetensors")
    (copy / "model.safetensors.index.json").unlink(missing_ok=True)
    said = (
        f"The model in {copy} lacks model-00002-of-00003.safetensors and 1 more; copy or download"
    )
    assert said in complaint_about(copy)


def test_a_missing_shard_is_named_before_anything_is_loaded(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "model-00001-of-00003.safetensors")
    files = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    index = {"weight_map": {f"weight{number}": file for number, file in enumerate(files)}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BaseModelError) as raised:
        load_base_model(str(copy))
    assert str(raised.value) == (
        f"The model in {copy} lacks model-00002-of-00003.safetensors and 1 more, named in its "
        "index; copy or download what is missing."
    )
    (copy / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(BaseModelError, match=r"index\.json cannot be read"):
        load_base_model(str(copy))


def test_a_model_with_a_weight_missing_is_one_sentence(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes().replace(b"model.norm.", b"model.morn.", 1))
    assert "parameters" in complaint_about(copy)


def test_the_tokenizer_is_loaded_while_the_weights_are(monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory = threading.Event()
    load = base_model._load_tokenizer  # pyright: ignore[reportPrivateUsage]

    def waiting(*arguments: Any) -> Any:
        assert in_memory.wait(60)
        return load(*arguments)

    monkeypatch.setattr(base_model, "_load_tokenizer", waiting)
    base = load_base_model(str(VERSE_TINY), lambda share: in_memory.set() if share == 1 else None)
    assert base.hf_tokenizer.encode("河", add_special_tokens=False)


def test_a_model_without_its_tokenizer_is_refused(copy: Path) -> None:
    """Transformers would make an empty one, which takes every prompt for nothing."""
    for file in copy.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(BaseModelError, match="no tokenizer"):
        load_base_model(str(copy))


@pytest.mark.parametrize(
    "path",
    ["nowhere", "./nowhere", "../nowhere", "/nowhere", "~/nowhere", "~nobody-here/x", "a/b/c"],
)
def test_a_missing_folder_is_one_sentence_that_says_what_to_give(path: str) -> None:
    with pytest.raises(BaseModelError, match=r"^There is no model folder .+\(OWNER/NAME\)\.$"):
        load_base_model(path)


def test_a_file_is_no_model_folder(copy: Path) -> None:
    with pytest.raises(BaseModelError, match=r"config\.json is a file; --model wants a model"):
        load_base_model(str(copy / "config.json"))


def test_an_id_that_the_hub_does_not_give_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path_or_id: str, **_: object) -> Path:
        raise OSError(f"404 for {path_or_id}\nMany lines of advice\nfollow.")

    monkeypatch.setattr(mlx_lm_utils, "_download", refuse)
    with pytest.raises(BaseModelError) as caught:
        load_base_model("poet/nothing")
    assert str(caught.value).endswith("did not give a model of that name: 404 for poet/nothing")


def test_an_id_of_the_hub_is_served_under_that_id(
    half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def give(path_or_id: str, **_: object) -> Path:
        return half

    monkeypatch.setattr(mlx_lm_utils, "_download", give)
    base = load_base_model("poet/half")
    assert (base.id, base.path) == ("poet/half", half)


def test_code_in_a_model_folder_runs_only_if_it_is_trusted(copy: Path) -> None:
    """mlx-lm imports what `model_file` names."""
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_file": "own.py"}))
    (copy / "own.py").write_text("from mlx_lm.models.qwen2 import Model, ModelArgs\n")
    with pytest.raises(BaseModelError, match=r"custom module \('own.py'\)"):
        load_base_model(str(copy))
    assert load_base_model(str(copy), trust_remote_code=True).vocab_size == CONFIG["vocab_size"]


def test_the_tokenizer_alone_is_that_of_the_model_and_knows_the_context() -> None:
    base = load_base_tokenizer(str(VERSE_TINY))
    whole = load_base_model(str(VERSE_TINY))
    assert base.context_length == whole.context_length
    encode = base.hf_tokenizer.encode
    assert encode("河水", add_special_tokens=False) == whole.hf_tokenizer.encode(
        "河水", add_special_tokens=False
    )


def test_the_tokenizer_of_an_id_is_fetched_without_the_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def give(path_or_id: str, allow_patterns: list[str]) -> Path:
        asked.extend(allow_patterns)
        return VERSE_TINY

    monkeypatch.setattr(mlx_lm_utils, "_download", give)
    assert load_base_tokenizer("poet/model").context_length == 512
    assert asked
    assert not any("safetensors" in pattern for pattern in asked)


def test_a_folder_without_a_tokenizer_is_one_sentence(copy: Path) -> None:
    for file in copy.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(BaseModelError, match="tokenizer"):
        load_base_tokenizer(str(copy))


# --- Limits of the system -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "expected"),
    [((256, 100_000), (2048, 100_000)), ((60_000, 100_000), None), ((256, 1024), (1024, 1024))],
)
def test_importing_mlx_lm_lowers_no_limit(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], expected: tuple[int, int] | None
) -> None:
    given: list[object] = []

    def take(_: int, limits: tuple[int, int]) -> None:
        given.append(limits)

    def tell(_: int) -> tuple[int, int]:
        return limits

    monkeypatch.setattr(resource, "setrlimit", take)
    monkeypatch.setattr(resource, "getrlimit", tell)
    with base_model._limits_kept():  # pyright: ignore[reportPrivateUsage]
        resource.setrlimit(resource.RLIMIT_NOFILE, (2048, 4096))
    assert given == ([] if expected is None else [expected])
    assert resource.setrlimit is take


def test_a_model_can_be_loaded_where_few_files_may_be_open() -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (512, 1024));"
        "import verse.base_model; print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("(1024, 1024)\n", "")
