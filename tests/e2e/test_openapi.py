"""What the document at /schema promises is what the real server does: schemathesis asks it all."""

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import jsonschema_rs
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.e2e.conftest import Served, copy_of_examples, start

OPERATIONS = (
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "GET /v1/models",
    "HEAD /v1/models",
    "GET /v1/models/{model_id}",
    "HEAD /v1/models/{model_id}",
    "GET /v1/adapters",
    "HEAD /v1/adapters",
    "POST /v1/adapters/{name}/probe",
    "POST /v1/load_lora_adapter",
    "POST /v1/unload_lora_adapter",
    "POST /tokenize",
    "POST /detokenize",
    "GET /tokenizer_info",
    "HEAD /tokenizer_info",
    "GET /version",
    "HEAD /version",
    "GET /metrics",
    "HEAD /metrics",
    "GET /health",
    "HEAD /health",
)
KEPT = (
    *("/v1/batches", "/v1/columns", "/v1/decisions", "/v1/files", "/v1/fine_tuning"),
    "/v1/responses",
)
"""They go on from what was sent before; tests/server/api/test_openapi_kept.py asks them."""
TAKES_INPUT = [label for label in OPERATIONS if label.startswith("POST") or "{" in label]
TAKES_A_BODY = [label for label in OPERATIONS if label.startswith("POST")]

MODELS = itertools.cycle(("xuzhimo", "hushi@last:0.5", "libai:0.7+wangwei:-0.3", "base"))
ADAPTERS = itertools.cycle(("wenyiduo", "liubannong@last"))
"""Written over the names that are made up."""
OTHER_TEXT = itertools.cycle(("prompt", "messages"))
PRIORITY = "x-verse-priority"
DEADLINE = "x-verse-deadline-seconds"
SLOW_CHECKS = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)
MIXTURES = 25
NUM_PROMPTS = 8
NUM_TOKENS = 2
"""Of an answer; more would be more of the same."""
FORMS = {
    *("response_format", "structured_outputs", "tools", "tool_choice"),
    *("guided_json", "guided_regex", "guided_choice", "guided_grammar"),
}
FORM_IN_TURN = itertools.cycle(("", *sorted(FORMS)))
NO_FORM_WITH = {"ignore_eos", "min_tokens"}
BEYOND_A_SCHEMA = {
    "adapters": "must not contradict `model`",
    "add_special_tokens": "is for texts, not for messages",
    "chat_template_kwargs": "must be variables of a template",
    "continue_final_message": "must not contradict `add_generation_prompt`",
    "guided_choice": "must be the only form that is asked for",
    "guided_grammar": "must be a grammar, and the only form",
    "guided_json": "must be a schema that can be followed, and the only form",
    "guided_regex": "must be a regular expression, and the only form",
    "ignore_eos": "does not go with a form",
    "logit_bias": "must be a token of this base",
    "lora_name": "must be one adapter",
    "lora_path": "must be the adapter's folder",
    "messages": "must fit the context, and end as is asked for",
    "min_tokens": "must be no more than `max_tokens`, and does not go with a form",
    "prompt": "must fit the context, and be tokens of this base",
    "prompt_logprobs": "is not for streams",
    "repeat_penalty": "must not contradict `repetition_penalty`",
    "response_format": "must be a schema that can be followed",
    "stop_token_ids": "must be tokens of this base",
    "structured_outputs": "must be one form that can be followed",
    "tokens": "must be tokens of this base",
    "tool_choice": "must be one of `tools`",
    "tools": "must have schemas that can be followed, and a template that knows tools",
}
"""Parameters that may be refused although the document allows the value, and why."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    adapters = copy_of_examples(tmp_path_factory.mktemp("served") / "adapters")
    running = start(adapters, "--max-tokens", str(NUM_TOKENS))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    """One connection for all, as far as the server keeps it."""
    with requests.Session() as made:
        yield made


@pytest.fixture(scope="module")
def document(served: Served) -> Any:
    return httpx.get(served.base_url.removesuffix("/v1") + "/schema/openapi.json").json()


@pytest.fixture(scope="module")
def api(document: Any, served: Served) -> Any:
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=served.base_url.removesuffix("/v1"))
    schema.config.max_stream_events = 1000  # to the end, that is
    return schema


def test_all_operations_of_the_document_are_asked_here(document: Any) -> None:
    documented = [
        f"{method.upper()} {path}"
        for path, item in document["paths"].items()
        for method in item
        if not path.startswith(KEPT)
    ]
    assert sorted(documented) == sorted(OPERATIONS)


@pytest.mark.slow
@pytest.mark.parametrize("label", OPERATIONS)
def test_what_the_document_allows_is_answered_as_it_says(
    api: Any, document: Any, session: requests.Session, label: str
) -> None:
    answers: Counter[tuple[int, str]] = Counter()

    def ask(case: Any) -> None:
        case.body = askable(label, case.body)
        about_real_models(case)
        response = case.call(session=session)
        answers[response.status_code, media_type(response)] += 1
        check_events(response, document)
        excluded = [positive_data_acceptance] if is_beyond_a_schema(response) else []
        case.validate_response(response, excluded_checks=excluded)

    for_each_case(api, label, GenerationMode.POSITIVE, ask, num_mixtures(label))
    method, path = label.lower().split()
    content = document["paths"][path][method]["responses"]["200"].get("content", [""])
    for documented in content:
        assert answers[200, documented.partition(";")[0]], answers


@pytest.mark.slow
@pytest.mark.parametrize("label", TAKES_A_BODY)
def test_what_the_document_rules_out_is_refused_as_it_says(
    api: Any, session: requests.Session, label: str
) -> None:
    statuses: Counter[int] = Counter()

    def ask(case: Any) -> None:
        about_real_models(case)
        if case.meta.components[ParameterLocation.BODY].mode.is_negative:
            # One thing wrong is enough: another one must not be what it is refused for.
            case.headers.pop(PRIORITY, None)
            case.headers.pop(DEADLINE, None)
        else:  # a header that nobody asked for, say: the body is as the document has it
            case.body = askable(label, case.body)
        response = case.call(session=session)
        statuses[response.status_code] += 1
        excluded = [positive_data_acceptance] if is_beyond_a_schema(response) else []
        case.validate_response(response, excluded_checks=excluded)

    for_each_case(api, label, GenerationMode.NEGATIVE, ask, num_mixtures(label))
    assert set(statuses) <= {200, 204, 400, 405}, statuses
    assert statuses[200] + statuses[204] < statuses[400] / 10, statuses


def num_mixtures(label: str) -> int:
    return MIXTURES if label in TAKES_INPUT else 0


def for_each_case(
    api: Any, label: str, mode: GenerationMode, ask: Any, num_mixtures: int, one_in: int = 1
) -> None:
    """Values and bounds in turn, all or some; then a few mixtures, the same in every run."""
    operation = api.find_operation_by_label(label)
    cases = api.iter_coverage_cases(
        operation, generation_modes=[mode], generation_config=api.config.generation
    )
    for case in itertools.islice(cases, 0, None, one_in):
        ask(case)
    if not num_mixtures:
        return

    @settings(
        max_examples=num_mixtures,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=SLOW_CHECKS,
    )
    @given(operation.as_strategy(generation_mode=mode))
    def ask_mixtures(case: Any) -> None:
        ask(case)

    ask_mixtures()


def askable(label: str, body: Any) -> Any:
    """What the document allows, without what it can only rule out in words."""
    body = whole(body)
    if label == "POST /tokenize":
        return about_one_text(body)
    return about_one_form(shortened(body) if label == "POST /v1/completions" else body)


def whole(value: Any) -> Any:
    """JSON Schema calls 1.0 an integer. Here it is written 1, as every client does."""
    match value:
        case dict():
            return {name: whole(item) for name, item in value.items()}
        case list():
            return [whole(item) for item in value]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


def shortened(body: Any) -> Any:
    """Few answers of few tokens each; the server's option does not reach `/v1/completions`."""
    if not isinstance(body, dict) or "prompt" not in body:
        return body
    prompts = body["prompt"]
    return body | {
        "prompt": prompts[:NUM_PROMPTS] if isinstance(prompts, list) else prompts,
        "max_tokens": body.get("max_tokens") or NUM_TOKENS,
    }


def about_one_form(body: Any) -> Any:
    """Mixtures of all fields ask for several forms at once; here for one in turn, or for none."""
    if not isinstance(body, dict) or not FORMS & set(body):
        return body
    body = body | {"messages": whole_turns(body["messages"])} if body.get("messages") else body
    form = next(FORM_IN_TURN)
    kept = {name: value for name, value in body.items() if name not in FORMS - {form}}
    if kept.get(form) is not None:
        kept = {name: value for name, value in kept.items() if name not in NO_FORM_WITH}
    left_out = {"repeat_penalty", "prompt_logprobs" if kept.get("stream") else ""}
    if kept.get("continue_final_message"):
        left_out.add("add_generation_prompt")
    return {name: value for name, value in kept.items() if name not in left_out}


def about_one_text(body: Any) -> Any:
    """Either a text or messages, in turn where a mixture has both."""
    if not isinstance(body, dict) or not body.get("messages"):
        return body
    body = body | {"messages": whole_turns(body["messages"])}
    if body.get("continue_final_message"):
        body["add_generation_prompt"] = None
    if body.get("prompt") is not None:
        body[next(OTHER_TEXT)] = None
    return body if body["messages"] is None else body | {"add_special_tokens": None}


def whole_turns(messages: list[Any]) -> list[Any]:
    """What a role needs, which the document only tells in words."""
    return [
        turn
        | ({} if turn["role"] == "assistant" else {"content": turn.get("content") or "河"})
        | {"tool_call_id": turn.get("tool_call_id") or "a" if turn["role"] == "tool" else None}
        | {"tool_calls": turn.get("tool_calls") if turn["role"] == "assistant" else None}
        for turn in messages
    ]


def about_real_models(case: Any) -> None:
    """A made-up name is 404 and nothing else; and a long answer is a slow one."""
    for place in (case.path_parameters, case.body):
        for field, value in list(place.items()) if isinstance(place, dict) else ():
            if field in ("model", "model_id") and isinstance(value, str):
                place[field] = next(MODELS)
            elif field in ("name", "lora_name") and isinstance(value, str) and value:
                place[field] = next(ADAPTERS)
            elif field in ("max_tokens", "max_completion_tokens") and type(value) is int:
                place[field] = min(value, NUM_TOKENS)
    if isinstance(case.body, dict) and isinstance(case.body.get("adapters"), str):
        case.body["adapters"] = case.body.get("model")
    with suppress(KeyError, ValueError):
        if float(case.headers[DEADLINE]) > 0:
            case.headers[DEADLINE] = "30"


def is_beyond_a_schema(response: Any) -> bool:
    if response.status_code != 400 or not response.content:
        return False
    param = response.json()["error"]["param"] or ""
    return param.split("[")[0].split(".")[0] in BEYOND_A_SCHEMA


def media_type(response: Any) -> str:
    """Without its parameters; HEAD has none in the document, and so none here."""
    head = response.request.method == "HEAD"
    return "" if head else response.headers.get("content-type", [""])[0].partition(";")[0]


def check_events(response: Any, document: Any) -> None:
    """The data of a stream's events against the schema that the document gives for it."""
    if media_type(response) != "text/event-stream":
        return
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n")]
    assert events.pop() == ""
    assert events.pop() == "[DONE]"
    assert events
    operation = document["paths"][response.request.path_url]["post"]
    event = operation["responses"]["200"]["content"]["text/event-stream"]["schema"]
    of_data = event["properties"]["data"]["anyOf"][1]["contentSchema"]
    validator = jsonschema_rs.validator_for(of_data | {"components": document["components"]})
    for data in events:
        validator.validate(json.loads(data))
