"""instructor, which asks for a class by tools.

`OPENAI_BASE_URL` and `OPENAI_API_KEY` name the server.
"""

# pyright: reportMissingImports=false
# The client is not installed with the project; test_clients.py brings it.
from collections.abc import Iterable
from typing import Any, Literal

import instructor
import pytest
from openai import OpenAI
from pydantic import BaseModel, ConfigDict, Field

RIVER: Any = [{"role": "user", "content": "河"}]


class Verdict(BaseModel):
    """A judge's."""

    mood: Literal["静", "悲", "喜"]
    score: int = Field(ge=0, le=10)


class Closed(Verdict):
    """Outside of tools a class has to say itself that nothing else is in it."""

    model_config = ConfigDict(extra="forbid")


def client(mode: Any) -> Any:
    return instructor.from_openai(OpenAI(max_retries=0), mode=mode)


@pytest.mark.parametrize(
    "mode",
    [instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA],
)
def test_a_class_is_filled_in(mode: Any) -> None:
    wanted = Closed if mode is instructor.Mode.JSON_SCHEMA else Verdict
    asked = {"model": "xuzhimo", "messages": RIVER, "response_model": wanted, "max_retries": 0}
    assert isinstance(client(mode).chat.completions.create(**asked), wanted)


def test_the_default_way_and_its_stream_need_no_mode() -> None:
    by_default = instructor.from_provider("openai/xuzhimo")
    assert isinstance(by_default.create(messages=RIVER, response_model=Verdict), Verdict)
    *_, last = by_default.create_partial(messages=RIVER, response_model=Verdict)
    assert Verdict.model_validate(last.model_dump())


def test_a_list_of_a_class() -> None:
    judge = client(instructor.Mode.TOOLS).chat.completions
    asked = {"model": "hushi", "messages": RIVER, "max_retries": 0}
    verdicts = judge.create(response_model=Iterable[Verdict], max_tokens=400, **asked)
    assert all(isinstance(verdict, Verdict) for verdict in verdicts)


def test_what_does_not_validate_is_asked_for_again_with_the_call_in_the_history() -> None:
    class Even(Verdict):
        score: int = Field(ge=0, le=3, multiple_of=2)

        def model_post_init(self, _context: Any) -> None:
            asked_for.append(self.score)
            if len(asked_for) < 3:
                raise ValueError("again")

    asked_for: list[int] = []
    judge = client(instructor.Mode.TOOLS).chat.completions
    judge.create(model="xuzhimo", messages=RIVER, response_model=Even, max_retries=3)
    assert len(asked_for) >= 3
