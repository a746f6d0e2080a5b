"""What can be asked for."""

from typing import Any

import pytest
from wire import Client


def test_the_list_has_the_base_first_and_openais_fields_on_each(client: Client) -> None:
    body = client.get("/v1/models").json()
    assert body["object"] == "list"
    assert [model["id"] for model in body["data"]] == ["verse-tiny", "xuzhimo"]
    for model in body["data"]:
        assert model["object"] == "model"
        assert isinstance(model["created"], int)
        assert model["owned_by"] == "verse"


def test_an_adapter_shows_where_it_comes_from_and_what_it_does(client: Client) -> None:
    model: dict[str, Any] = client.get("/v1/models/xuzhimo").json()
    assert (model["parent"], model["root"]) == ("verse-tiny", "verse-tiny")
    assert model["checkpoints"] == [{"id": "xuzhimo@200", "step": 200, "bytes": 4096}]
    assert model["digest"].startswith("0123")
    assert (model["prompt_format"], model["system"]) == ("chat", "写诗")
    assert model["report"] == {
        "format": "mlx-lora",
        "matched": 24,
        "unmatched": [],
        "rank": 8,
        "scale": 20.0,
        "delta_norm": None,
        "bytes": 4096,
        "digest": model["digest"],
        "recorded_base": None,
        "warnings": [],
    }


@pytest.mark.parametrize("spelling", ["Qwen/Qwen2.5-7B", "Qwen%2FQwen2.5-7B"])
def test_an_id_may_hold_slashes(client: Client, spelling: str) -> None:
    assert client.get(f"/v1/models/{spelling}").json()["id"] == "Qwen/Qwen2.5-7B"


@pytest.mark.parametrize("spelling", ["xuzhimo@200", "xuzhimo%40200"])
def test_a_checkpoint_can_be_asked_for(client: Client, spelling: str) -> None:
    assert client.get(f"/v1/models/{spelling}").status_code == 200


def test_a_blend_shows_its_parts(client: Client) -> None:
    model = client.get("/v1/models/xuzhimo:0.5+xuzhimo@200:0.5").json()
    assert model["id"] == "xuzhimo:0.5+xuzhimo@200:0.5"
    assert (model["digest"], model["report"]) == (None, None)
    assert [(part["id"], part["strength"]) for part in model["parts"]] == [
        ("xuzhimo", 0.5),
        ("xuzhimo@200", 0.5),
    ]
    assert all(part["report"]["matched"] == 24 for part in model["parts"])
    assert client.get("/v1/models/xuzhimo").json()["parts"] == []


@pytest.mark.parametrize(
    "name", ["nobody", "%2e%2e/%2e%2e/etc/passwd", "%2Fetc%2Fpasswd", "a%00b", "%ff", "诗"]
)
def test_a_name_of_nothing_is_404(client: Client, name: str) -> None:
    response = client.get(f"/v1/models/{name}")
    assert response.status_code == 404
    assert response.json()["error"]["code"] in ("model_not_found", "unknown_url")


def test_a_broken_adapter_is_409(client: Client) -> None:
    assert client.get("/v1/models/broken").status_code == 409
