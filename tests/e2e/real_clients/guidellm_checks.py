"""guidellm's benchmark; `OPENAI_BASE_URL` and `OPENAI_API_KEY` name the server."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NUM_REQUESTS = 3
NUM_OUTPUT_TOKENS = 8


def report(folder: Path, request_format: str, profile: str) -> Any:
    backend = {
        "kind": "openai_http",
        "target": os.environ["OPENAI_BASE_URL"].removesuffix("/v1"),
        "model": "xuzhimo",
        "api_key": os.environ["OPENAI_API_KEY"],
        "request_format": request_format,
    }
    command = [str(Path(sys.executable).with_name("guidellm")), "run"]
    command += ["--backend", ",".join(f"{k}={v}" for k, v in backend.items())]
    command += ["--profile", profile, "--constraint", f"kind=max_requests,count={NUM_REQUESTS}"]
    data = f"kind=synthetic_text,prompt_tokens=20,output_tokens={NUM_OUTPUT_TOKENS}"
    command += ["--data", data]
    command += ["--tokenizer", f"kind=hf_auto,model={os.environ['VERSE_MODEL_FOLDER']}"]
    command += ["--output", "kind=json,path=report.json", "--disable-console"]
    ran = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=500, check=False
    )
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-3000:]
    return json.loads((folder / "report.json").read_text("utf-8"))


# Two runs, because each takes a minute to load torch.
@pytest.mark.parametrize(
    ("request_format", "profile"),
    [
        ("/v1/completions", "kind=synchronous"),
        ("/v1/chat/completions", "kind=concurrent,streams=3"),
    ],
)
def test_the_report_shows_tokens_and_times(
    tmp_path: Path, request_format: str, profile: str
) -> None:
    (benchmark,) = report(tmp_path, request_format, profile)["benchmarks"]
    metrics = benchmark["metrics"]
    assert metrics["request_totals"]["successful"] == NUM_REQUESTS
    assert metrics["request_totals"]["errored"] == 0
    successful = {name: metrics[name]["successful"] for name in METRICS}
    assert successful["output_token_count"]["mean"] == NUM_OUTPUT_TOKENS
    assert all(figures["mean"] > 0 for figures in successful.values()), successful


METRICS = (
    "prompt_token_count",
    "output_token_count",
    "output_tokens_per_second",
    "time_to_first_token_ms",
    "inter_token_latency_ms",
)
