"""Endpoints that go on from what was sent before, asked all that the document allows and rules out.

`tests/e2e/test_openapi.py` asks the others, of a real server. Here the engine is a fake one and
nobody trains, so thousands of requests take seconds. What a request names is there: it is made
anew for each that takes it away.
"""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import schemathesis
from fake_engine import FakeEngine
from schemathesis import GenerationMode
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tests.e2e.test_openapi import (
    KEPT,
    about_one_form,
    check_events,
    for_each_case,
    media_type,
    whole,
    whole_turns,
)
from verse_server.acceptor import bind
from verse_server.app import create_app
from verse_server.config import EngineConfig, ServerConfig
from verse_server.serving import make_runner, make_server
from verse_server.state.folder import ServerState

READS = (
    "/v1/batches",
    "/v1/batches/{batch_id}",
    "/v1/files",
    "/v1/files/{file_id}",
    "/v1/files/{file_id}/content",
    "/v1/fine_tuning/jobs",
    "/v1/fine_tuning/jobs/{fine_tuning_job_id}",
    "/v1/fine_tuning/jobs/{fine_tuning_job_id}/checkpoints",
    "/v1/fine_tuning/jobs/{fine_tuning_job_id}/events",
    "/v1/responses/{response_id}",
    "/v1/responses/{response_id}/input_items",
)
CHANGES = (
    "POST /v1/batches",
    "POST /v1/batches/{batch_id}/cancel",
    "POST /v1/columns",
    "POST /v1/decisions",
    "DELETE /v1/decisions/{number}",
    "POST /v1/files",
    "DELETE /v1/files/{file_id}",
    "POST /v1/fine_tuning/jobs",
    "POST /v1/fine_tuning/jobs/{fine_tuning_job_id}/cancel",
    "POST /v1/fine_tuning/jobs/{fine_tuning_job_id}/pause",
    "POST /v1/fine_tuning/jobs/{fine_tuning_job_id}/resume",
    "POST /v1/responses",
    "DELETE /v1/responses/{response_id}",
)
LABELS = (*(f"{verb} {path}" for path in READS for verb in ("GET", "HEAD")), *CHANGES)
ONE_IN = {"POST /v1/columns": 30, "POST /v1/responses": 4, "POST /v1/fine_tuning/jobs": 3}
"""Of their cases, of which there are many; a column is a chat request, which is asked elsewhere."""
WRONG_STATE = {"pause", "resume"}
"""Of jobs that nobody validates: always 409."""
NUM_MIXTURES = {"POST /v1/columns": 2}
MANY_MIXTURES = 5
BEYOND_A_SCHEMA = {
    "after": "must be an id of the list",
    "beta": "is for preferences alone",
    "columns": "must be chat requests that `POST /v1/chat/completions` takes",
    "expires_after": "must have an anchor and some seconds",
    "file": "must have a name",
    "include": "must be asked for by name",
    "input": "must be items that fit each other and the context",
    "instructions": "must fit the context",
    "metadata": "must not have a setting that is wrong",
    "method": "must bring its own hyperparameters only",
    "model": "must be the base or an adapter of it",
    "poem": "must be of a model that is there",
    "previous_response_id": "must be a response that is there",
    "stream": "is not for a response that is stored",
    "suffix": "must be a name for an adapter",
    "text": "must be a schema that can be followed; of a decision, that of an edit",
    "tool_choice": "must be one of `tools`",
    "tools": "must have schemas that can be followed",
    "top_logprobs": "must go with `include`",
    "training_file": "must be a file that is there",
    "validation_file": "must be a file that is there",
    "verse": "must be settings of a training that can be",
}
"""Parameters that may be refused although the document allows the value, and why."""


@dataclass
class Kept:
    """A server, and things on it."""

    address: str
    ids: dict[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=self.address)
        self.ids = {name: make() for name, make in self.makers.items()}

    @property
    def makers(self) -> dict[str, Callable[[], str]]:
        return {
            "file_id": self.file,
            "batch_id": self.batch,
            "fine_tuning_job_id": self.job,
            "response_id": self.response,
            "number": self.decision,
        }

    def post(self, path: str, **body: Any) -> Any:
        answer = self.client.post(f"/v1/{path}", **body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def file(self, purpose: str = "fine-tune") -> str:
        files = {"file": ("rows.jsonl", b"{}\n")}
        return self.post("files", files=files, data={"purpose": purpose})["id"]

    def batch(self) -> str:
        asked = {"endpoint": "/v1/completions", "completion_window": "24h"}
        return self.post("batches", json=asked | {"input_file_id": self.file("batch")})["id"]

    def job(self) -> str:
        asked = {"model": "verse-tiny", "training_file": self.ids.get("file_id") or self.file()}
        return self.post("fine_tuning/jobs", json=asked)["id"]

    def response(self) -> str:
        return self.post("responses", json={"model": "xuzhimo", "input": "河"})["id"]

    def decision(self) -> str:
        poem = {"theme": "河", "text": "我走了", "model": "xuzhimo"}
        asked = {"action": "accept", "poem": poem, "blind": False}
        return str(self.post("decisions", json=asked)["number"])


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    folder = tmp_path_factory.mktemp("kept")
    config = ServerConfig(
        engine=EngineConfig(adapters=folder / "adapters"),
        jobs=True,
        decisions=folder / "decisions.jsonl",
    )
    engine, state, sock = FakeEngine(), ServerState(folder / "state"), bind("127.0.0.1", 0)
    app = create_app(engine, config, state, make_runner(engine, config, state))
    server = make_server(app, config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[sock])))
    thread.start()
    made = Kept(f"http://127.0.0.1:{sock.getsockname()[1]}")
    yield made
    made.client.close()
    server.should_exit = True
    thread.join(60)
    app.archive.close()
    state.close()


@pytest.fixture(scope="module")
def document(kept: Kept) -> Any:
    return kept.client.get("/schema/openapi.json").json()


@pytest.fixture(scope="module")
def api(document: Any, kept: Kept) -> Any:
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=kept.address)
    return schema


def test_all_operations_that_keep_something_are_asked_here(document: Any) -> None:
    documented = [
        f"{method.upper()} {path}"
        for path, item in document["paths"].items()
        for method in item
        if path.startswith(KEPT)
    ]
    assert sorted(documented) == sorted(LABELS)


@pytest.mark.slow
@pytest.mark.parametrize("label", LABELS)
def test_what_the_document_allows_is_answered_as_it_says(
    kept: Kept, api: Any, document: Any, label: str
) -> None:
    statuses: Counter[int] = Counter()

    def ask(case: Any) -> None:
        about_what_is_there(kept, case, label)
        response = case.call()
        statuses[response.status_code] += 1
        if media_type(response) == "text/event-stream" and "columns" in label:
            check_events(response, document)
        case.validate_response(response, excluded_checks=excluded(response))

    for_some_cases(api, label, GenerationMode.POSITIVE, ask)
    expected = 409 if label.rpartition("/")[2] in WRONG_STATE else 200
    assert statuses[expected], statuses


@pytest.mark.slow
@pytest.mark.parametrize("label", [label for label in LABELS if not label.startswith("HEAD")])
def test_what_the_document_rules_out_is_refused_as_it_says(
    kept: Kept, api: Any, label: str
) -> None:
    statuses: Counter[int] = Counter()

    def ask(case: Any) -> None:
        components = case.meta.components
        places = (ParameterLocation.BODY, ParameterLocation.PATH)
        is_wrong = any(
            place in components and components[place].mode.is_negative for place in places
        )
        if not is_wrong:
            about_what_is_there(kept, case, label)
        response = case.call()
        statuses[response.status_code] += is_wrong
        case.validate_response(response, excluded_checks=excluded(response))

    for_some_cases(api, label, GenerationMode.NEGATIVE, ask)
    assert statuses[200] <= sum(statuses.values()) / 10, statuses


def for_some_cases(api: Any, label: str, mode: GenerationMode, ask: Any) -> None:
    has_body = bool(api.find_operation_by_label(label).body)
    num_mixtures = NUM_MIXTURES.get(label, MANY_MIXTURES) if has_body else 0
    for_each_case(api, label, mode, ask, num_mixtures, one_in=ONE_IN.get(label, 1))


def about_what_is_there(kept: Kept, case: Any, label: str) -> None:
    """A made-up id is 404 and nothing else."""
    takes_away = label.startswith("DELETE") or label.endswith("/cancel")
    for name in case.path_parameters or ():
        if name in kept.makers and isinstance(case.path_parameters[name], str | int):
            made = kept.makers[name]() if takes_away else kept.ids[name]
            case.path_parameters[name] = made
    case.body = about_one_form(whole(case.body))
    if isinstance(case.body, dict):
        case.body |= {
            name: make(kept, case.body[name])
            for name, make in THERE.items()
            if isinstance(case.body.get(name), str | dict | list)
        }
        if "/responses" in label:
            case.body["input"] = case.body.get("input") or "河"


def one_column(column: Any) -> Any:
    if not isinstance(column, dict) or not isinstance(column.get("messages"), list):
        return column
    column = about_one_form(column | {"messages": whole_turns(column["messages"])})
    return column | {"model": "xuzhimo", "stream_options": None}


def of_a_model(poem: Any) -> Any:
    return {**poem, "model": "xuzhimo"} if isinstance(poem, dict) else poem


THERE: dict[str, Callable[[Kept, Any], Any]] = {
    "training_file": lambda kept, _: kept.ids["file_id"],
    "input_file_id": lambda kept, _: kept.file("batch"),
    "model": lambda _, __: "verse-tiny",
    "poem": lambda _, poem: of_a_model(poem),
    "columns": lambda _, columns: [*map(one_column, columns)] if columns else columns,
}
"""What a body has, made one of something that is there."""


def excluded(response: Any) -> list[Any]:
    """The check that what the document allows is accepted, where it cannot tell all.

    And, of uploads, that what it rules out is not: schemathesis takes every form for such.
    """
    if response.request.method == "HEAD":  # tells no reason; GET is asked the same
        return [positive_data_acceptance]
    if response.request.path_url == "/v1/files" and response.status_code == 200:
        return [negative_data_rejection]
    if response.status_code not in (400, 404, 409):
        return []
    param = json.loads(response.content)["error"]["param"] or ""
    name = param.split("[")[0].split(".")[0]
    return [positive_data_acceptance] if name in BEYOND_A_SCHEMA else []
