"""Load and unload as vLLM's clients do it."""

from typing import Any

import httpx
import openai
import pytest

from tests.e2e.conftest import EXAMPLES, Served

RIVER: Any = [{"role": "user", "content": "河"}]


def test_an_adapter_goes_and_comes_back(served: Served) -> None:
    def poem() -> str | None:
        answer = served.client.chat.completions.create(
            model="libai", messages=RIVER, temperature=0, max_tokens=30
        )
        return answer.choices[0].message.content

    before = poem()
    with httpx.Client(base_url=served.base_url, timeout=180) as http:
        listed = http.get("/adapters").json()["data"]
        assert [adapter["id"] for adapter in listed] == list(EXAMPLES)
        assert next(a for a in listed if a["id"] == "libai")["state"] == "resident"
        assert http.post("/unload_lora_adapter", json={"lora_name": "libai"}).status_code == 200
        with pytest.raises(openai.NotFoundError, match="unloaded"):
            poem()
        body = {"lora_name": "libai", "lora_path": str(served.adapters / "libai")}
        loaded = http.post("/load_lora_adapter", json=body)
        assert loaded.status_code == 200, loaded.text
        assert loaded.json()["report"]["delta_norm"] > 0
        outside = {"lora_name": "libai", "lora_path": "/etc"}
        assert http.post("/load_lora_adapter", json=outside).status_code == 400
    assert poem() == before


def test_a_probe_shows_that_every_example_changes_the_base(served: Served) -> None:
    for name in EXAMPLES:
        probe = httpx.post(
            f"{served.base_url}/adapters/{name}:0.8/probe", json={"prompt": "河"}, timeout=180
        )
        assert probe.status_code == 200, probe.text
        assert probe.json()["kl_divergence"] > 0
        assert probe.json()["max_logit_change"] > 0.1
