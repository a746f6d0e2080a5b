"""`/v1/fine_tuning/jobs` over a runner that trains nothing: what is taken, refused and shown."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_engine import FakeEngine
from litestar import Litestar
from litestar.testing import TestClient
from wire import ADDRESS

from verse_server.app import create_app
from verse_server.config import EngineConfig, ServerConfig
from verse_server.protocol.fine_tuning import LoraSettings, TrainSettings
from verse_server.serving import make_runner
from verse_server.state.folder import ServerState
from verse_trainer.config import LoraConfig, TrainConfig

JOBS = "/v1/fine_tuning/jobs"
Client = TestClient[Litestar]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[ServerState]:
    opened = ServerState(tmp_path / "state")
    yield opened
    opened.close()


@pytest.fixture
def client(engine: FakeEngine, state: ServerState, tmp_path: Path) -> Iterator[Any]:
    """The runner is never started, so each job stays as it was made."""
    (tmp_path / "adapters" / "taken").mkdir(parents=True)
    config = ServerConfig(engine=EngineConfig(adapters=tmp_path / "adapters"), jobs=True)
    runner = make_runner(engine, config, state)
    app = create_app(engine, config, state, runner)
    with TestClient(app, base_url=ADDRESS) as made:
        yield made


def uploaded(client: Client, purpose: str = "fine-tune") -> str:
    files = {"file": ("poems.jsonl", b"{}")}
    return client.post("/v1/files", files=files, data={"purpose": purpose}).json()["id"]


def create(client: Client, **fields: Any) -> Any:
    body = {"model": "verse-tiny", "training_file": fields.pop("file", None) or uploaded(client)}
    return client.post(JOBS, json=body | fields)


def made(client: Client, **fields: Any) -> dict[str, Any]:
    response = create(client, **fields)
    assert response.status_code == 200, response.text
    return response.json()


def keys(state: ServerState, id_: str) -> dict[str, Any]:
    return asyncio.run(state.jobs.get(id_)).plan.keys


def test_a_job_is_shown_as_openai_shows_it(client: Client) -> None:
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}}
    job = made(client, suffix="mine", seed=7, method=method, metadata={"who": "me"})
    assert job["object"] == "fine_tuning.job"
    assert (job["status"], job["fine_tuned_model"], job["error"]) == (
        "validating_files",
        None,
        None,
    )
    shown = {"n_epochs": 3, "batch_size": "auto", "learning_rate_multiplier": "auto"}
    assert job["hyperparameters"] == shown
    assert job["method"] == {"type": "supervised", "supervised": {"hyperparameters": shown}}
    assert (job["seed"], job["metadata"], job["result_files"]) == (7, {"who": "me"}, [])
    assert client.get(f"{JOBS}/{job['id']}").json() == job
    assert client.get(JOBS).json() == {"object": "list", "data": [job], "has_more": False}
    events = client.get(f"{JOBS}/{job['id']}/events").json()
    assert [event["message"] for event in events["data"]] == ["The job was created."]
    assert client.get(f"{JOBS}/{job['id']}/checkpoints").json()["data"] == []


def test_what_was_asked_reaches_the_trainer(client: Client, state: ServerState) -> None:
    numbers = {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 2, "beta": 0.3}
    method = {"type": "dpo", "dpo": {"hyperparameters": numbers}}
    job = made(
        client, method=method, seed=3, verse={"num_layers": 4, "lora_parameters": {"rank": 4}}
    )
    found = keys(state, job["id"])
    assert (found["method"], found["epochs"], found["batch_size"]) == ("dpo", 2, 8)
    assert (found["beta"], found["seed"], found["num_layers"]) == (0.3, 3, 4)
    assert found["lora_parameters"] == {"rank": 4}


@pytest.mark.parametrize(
    ("num_parameters", "rate"), [(90_000_000, 1e-3), (110_000_000, 1e-4), (500_000_000, 1e-4)]
)
def test_the_rate_suits_the_size_of_the_base_however_it_is_packed(
    state: ServerState, tmp_path: Path, num_parameters: int, rate: float
) -> None:
    """Its activations are float32 and its weights take a byte each, or two."""
    engine = FakeEngine()
    base = {"num_parameters": num_parameters, "bytes": num_parameters, "dtype": "float32"}
    engine.base = msgspec.structs.replace(engine.base, **base)
    config = ServerConfig(engine=EngineConfig(adapters=tmp_path / "adapters"), jobs=True)
    runner = make_runner(engine, config, state)
    assert runner.base.bytes == num_parameters
    app = create_app(engine, config, state, runner)
    with TestClient[Litestar](app, base_url=ADDRESS) as client:
        assert keys(state, made(client)["id"])["learning_rate"] == rate


def adapter(folder: Path, **config: Any) -> Path:
    """As the trainer writes one, but for the weights."""
    lora = {"rank": 4, "scale": 3.0, "dropout": 0.1, "keys": ["self_attn.q_proj"]}
    shown = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": lora, "best_step": 7}
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(shown | config), "utf-8")
    (folder / "prompt.json").write_text('{"format": "seed-chatml", "system": "写"}', "utf-8")
    for name in ("adapters", "0000007_adapters", "0000009_adapters"):
        (folder / f"{name}.safetensors").write_text(name, "utf-8")
    return folder


@pytest.mark.parametrize(
    ("model", "shown", "weights"),
    [
        ("hers", "hers", "adapters"),
        ("hers@best", "hers@7", "0000007_adapters"),
        ("hers@last", "hers@9", "0000009_adapters"),
    ],
)
def test_a_job_may_go_on_from_an_adapter(
    client: Client, state: ServerState, tmp_path: Path, model: str, shown: str, weights: str
) -> None:
    folder = adapter(tmp_path / "adapters" / "hers")
    job = made(client, model=model, method={"type": "dpo"})
    shutil.rmtree(folder)  # the job has what it needs
    assert job["model"] == shown
    found = asyncio.run(state.jobs.get(job["id"]))
    assert found.adapter.startswith("hers-")
    assert found.plan.keys["lora_parameters"] == {
        "rank": 4,
        "scale": 3.0,
        "dropout": 0.1,
        "keys": ["self_attn.q_proj"],
    }
    told = {name: found.plan.keys[name] for name in ("method", "num_layers", "prompt_format")}
    assert told == {"method": "dpo", "num_layers": 2, "prompt_format": "seed-chatml"}
    start = state.folder / "jobs" / job["id"] / "start"
    assert (start / "adapters.safetensors").read_text() == weights
    assert (start / "prompt.json").exists()


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("hers:0.5", "without a strength"),
        ("hers+hers", "without a strength"),
        ("hers@8", "no checkpoint"),
        ("full", "full fine-tune"),
        ("peft", "verse adapters import"),
        ("taken", "adapter_config.json is missing"),
        ("link", "and its adapters"),
        ("nobody", "and its adapters"),
        ("../hers", "and its adapters"),
    ],
)
def test_an_adapter_that_cannot_be_trained_on_is_refused_with_the_reason(
    client: Client, tmp_path: Path, model: str, reason: str
) -> None:
    adapters = tmp_path / "adapters"
    hers = adapter(adapters / "hers")
    adapter(adapters / "full", fine_tune_type="full")
    peft = adapter(adapters / "peft", peft_type="LORA", r=4, target_modules=["q_proj"])
    (peft / "adapter_model.safetensors").write_text("")
    (adapters / "link").symlink_to(hers)
    error = create(client, model=model).json()["error"]
    assert (error["param"], error["code"]) == ("model", "model_not_available")
    assert reason in error["message"]
    assert client.get(JOBS).json()["data"] == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"verse": {"num_layers": 1}}, "verse.num_layers"),
        ({"verse": {"lora_parameters": {"rank": 9}}}, "verse.lora_parameters"),
        ({"metadata": {"fine_tune_type": "dora"}}, "metadata"),
    ],
)
def test_what_an_adapter_is_cannot_be_chosen_again(
    client: Client, tmp_path: Path, fields: dict[str, Any], param: str
) -> None:
    adapter(tmp_path / "adapters" / "hers")
    answer = create(client, model="hers", **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_settings_may_come_as_metadata_too(client: Client, state: ServerState) -> None:
    metadata = {"num_layers": "4", "grad_checkpoint": "true", "note": "num_layers"}
    job = made(client, metadata=metadata)
    assert job["metadata"] == metadata
    found = keys(state, job["id"])
    assert (found["num_layers"], found["grad_checkpoint"]) == (4, True)
    assert "note" not in found
    answer = create(client, metadata={"num_layers": "many"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "metadata")


def test_a_name_that_is_taken_gets_a_number(client: Client, state: ServerState) -> None:
    ids = [made(client, suffix="taken")["id"] for _ in range(2)]
    jobs = [asyncio.run(state.jobs.get(id_)) for id_ in ids]
    assert [job.adapter for job in jobs] == ["taken-2", "taken-3"]
    other = asyncio.run(state.jobs.get(made(client)["id"]))
    assert other.adapter.startswith("verse-tiny-")


def hyper(**numbers: Any) -> dict[str, Any]:
    return {"method": {"type": "supervised", "supervised": {"hyperparameters": numbers}}}


WRONG = [
    ({"model": "xuzhimo"}, "model"),
    ({"model": "gpt-4o-mini"}, "model"),
    (hyper(n_epochs=0), "method.supervised.hyperparameters.n_epochs"),
    (hyper(n_epochs=51), "method.supervised.hyperparameters.n_epochs"),
    (hyper(batch_size=257), "method.supervised.hyperparameters.batch_size"),
    (hyper(batch_size="many"), "method.supervised.hyperparameters.batch_size"),
    (
        hyper(learning_rate_multiplier=0),
        "method.supervised.hyperparameters.learning_rate_multiplier",
    ),
    (hyper(beta=0.1), "beta"),
    ({"method": {"type": "reinforcement"}}, "method.type"),
    ({"method": {"type": "dpo", "supervised": {"hyperparameters": {}}}}, "method.supervised"),
    ({"suffix": "../up"}, "suffix"),
    ({"suffix": "a@b"}, "suffix"),
    ({"suffix": "base"}, "suffix"),
    ({"suffix": "x" * 65}, "suffix"),
    ({"suffix": ""}, "suffix"),
    ({"seed": -1}, "seed"),
    ({"verse": {"adapter_path": "/tmp/x"}}, "verse.adapter_path"),
    ({"verse": {"trust_remote_code": True}}, "verse.trust_remote_code"),
    ({"integrations": [{"type": "wandb"}]}, "integrations"),
    ({"training_file": "file-none"}, "training_file"),
    ({"training_file": "../../etc/passwd"}, "training_file"),
    ({"validation_file": "file-none"}, "validation_file"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG)
def test_what_is_wrong_is_named_and_makes_no_job(
    client: Client, state: ServerState, fields: dict[str, Any], param: str
) -> None:
    answer = create(client, **fields)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert client.get(JOBS).json()["data"] == []
    assert not any((state.folder / "jobs").glob("*")) if (state.folder / "jobs").exists() else True


def test_a_file_of_another_purpose_cannot_be_trained_on(client: Client) -> None:
    answer = create(client, file=uploaded(client, "batch"))
    assert answer.status_code == 400
    assert "'fine-tune'" in answer.json()["error"]["message"]


def test_a_job_can_be_cancelled_once(client: Client) -> None:
    job = made(client)
    assert client.post(f"{JOBS}/{job['id']}/cancel").json()["status"] == "cancelled"
    again = client.post(f"{JOBS}/{job['id']}/cancel")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "invalid_state")
    for change in ("pause", "resume"):
        assert client.post(f"{JOBS}/{job['id']}/{change}").status_code == 409


@pytest.mark.parametrize("path", ["", "/events", "/checkpoints"])
def test_an_unknown_job_is_not_found(client: Client, path: str) -> None:
    answer = client.get(f"{JOBS}/ftjob-none{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_jobs_are_found_by_their_metadata(client: Client) -> None:
    mine = made(client, metadata={"who": "me"})
    made(client, metadata={"who": "you"})
    found = client.get(JOBS, params={"metadata[who]": "me"}).json()["data"]
    assert [job["id"] for job in found] == [mine["id"]]
    page = client.get(JOBS, params={"limit": 1}).json()
    assert page["has_more"]
    rest = client.get(JOBS, params={"after": page["data"][0]["id"]}).json()
    assert [job["id"] for job in rest["data"]] == [mine["id"]]


def test_every_setting_is_one_of_verse_train() -> None:
    """The server cannot import the trainer, so its names are written down twice."""
    for ours, theirs in ((TrainSettings, TrainConfig), (LoraSettings, LoraConfig)):
        names = {field.name for field in msgspec.structs.fields(theirs)}
        assert {field.name for field in msgspec.structs.fields(ours)} <= names
