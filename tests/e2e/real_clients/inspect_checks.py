"""inspect-ai; `OPENAI_BASE_URL` and `OPENAI_API_KEY` name the server."""

# pyright: reportMissingImports=false, reportUnknownVariableType=false
# pyright: reportUntypedFunctionDecorator=false, reportUnknownParameterType=false
# The client is not installed with the project; test_clients.py brings it.
import os
from pathlib import Path
from typing import Any, Literal

from inspect_ai import Task
from inspect_ai import eval as evaluate
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, ResponseSchema, get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import basic_agent, generate
from inspect_ai.tool import tool
from inspect_ai.util import json_schema
from pydantic import BaseModel, ConfigDict

SAMPLES = [Sample(input="河", target="河"), Sample(input="月", target="月")]


class Verdict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    mood: Literal["静", "悲", "喜"]


@tool
def lines() -> Any:
    async def execute() -> str:
        """Counts the lines of the poem."""
        return "四行"

    return execute


def model(**config: Any) -> Any:
    return get_model(
        "openai-api/verse/xuzhimo",
        base_url=os.environ["OPENAI_BASE_URL"],
        api_key=os.environ["OPENAI_API_KEY"],
        config=GenerateConfig(**{"max_tokens": 30, **config}),
    )


def run(task: Task, folder: Path, **config: Any) -> Any:
    (log,) = evaluate(task, model=model(**config), display="none", log_dir=str(folder))
    assert log.status == "success", log.error
    return log


def test_an_evaluation_scores_every_sample_and_counts_tokens(tmp_path: Path) -> None:
    log = run(Task(SAMPLES, solver=generate(), scorer=includes()), tmp_path, seed=3, logprobs=True)
    assert log.results.completed_samples == 2
    (usage,) = log.stats.model_usage.values()
    assert usage.output_tokens > 0
    for sample in log.samples:
        assert sample.output.choices[0].logprobs.content


def test_a_schema_is_followed(tmp_path: Path) -> None:
    wanted = ResponseSchema(name="verdict", json_schema=json_schema(Verdict))
    log = run(Task(SAMPLES, solver=generate()), tmp_path, response_schema=wanted, max_tokens=100)
    for sample in log.samples:
        Verdict.model_validate_json(sample.output.completion)


def test_an_agent_with_tools_runs_to_its_limit(tmp_path: Path) -> None:
    agent = basic_agent(tools=[lines()], message_limit=6)
    log = run(Task(SAMPLES[:1], solver=agent, scorer=includes()), tmp_path)
    assert len(log.samples[0].messages) >= 3
