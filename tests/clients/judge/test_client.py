"""Stepping down to what a server takes."""

import pytest

from verse_clients.errors import BadRequestError
from verse_clients.judge.client import Dialect, after_refusal, response_format

PROVEN = Dialect(is_proven=True)


@pytest.mark.parametrize(
    ("dialect", "said", "code", "expected"),
    [
        (Dialect(), "response_format is not supported", None, Dialect(format="json_object")),
        (Dialect(format="json_object"), "json_object?", None, Dialect(format="text")),
        (Dialect(format="text"), "response_format", None, None),
        (Dialect(), "no", None, Dialect(format="json_object")),
        (Dialect(), "no", "context_length_exceeded", None),
        (PROVEN, "no", None, None),
        (PROVEN, "bad json_schema", None, Dialect(format="json_object", is_proven=True)),
        (
            Dialect(),
            "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
            "unsupported_parameter",
            Dialect(limit="max_completion_tokens"),
        ),
        (
            Dialect(),
            "'temperature' does not support 0",
            "unsupported_value",
            Dialect(takes_temperature=False),
        ),
    ],
)
def test_a_refusal_leads_one_step_down(
    dialect: Dialect, said: str, code: str | None, expected: Dialect | None
) -> None:
    error = BadRequestError(said, status=400, code=code)
    assert after_refusal(dialect, error) == expected


def test_every_refusal_ends_somewhere() -> None:
    dialect: Dialect | None = Dialect()
    for _ in range(10):
        if dialect is None:
            break
        dialect = after_refusal(
            dialect, BadRequestError("temperature max_completion_tokens schema", status=400)
        )
    assert dialect is None


def test_the_format_is_what_openai_documents() -> None:
    asked = response_format(Dialect(), "rubric")
    assert asked is not None
    assert asked["type"] == "json_schema"
    assert asked["json_schema"]["strict"] is True
    assert response_format(Dialect(format="json_object"), "rubric") == {"type": "json_object"}
    assert response_format(Dialect(format="text"), "rubric") is None
