"""`verse adapters` as it is typed."""

import json
import re
import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from tests.trainer.adapters.conftest import ROOT, VERSE_TINY, Make
from verse.cli import main
from verse.model_spelling import AdapterPart
from verse_trainer.adapters.compare import as_markdown, read_themes
from verse_trainer.adapters.names import choose
from verse_trainer.adapters.remove import remove
from verse_trainer.errors import ConversionError, TrainerError


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["adapters", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_list_shows_what_was_recorded_and_what_is_broken(
    make_mlx: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_mlx(best_step=20, history=[{"step": 20, "train_loss": 3.0, "valid_loss": 3.25}])
    shutil.copy(folder / "adapters.safetensors", folder / "0000020_adapters.safetensors")
    (folder.parent / "broken").mkdir()
    code, out, _ = run(capsys, "list", "--adapters", str(folder.parent))
    assert code == 0
    assert "adapter_config.json is missing" in out
    code, out, _ = run(capsys, "list", "--json", "--adapters", str(folder.parent))
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows["mine"]["format"] == "mlx-lora"
    assert rows["mine"]["checkpoints"] == [{"step": 20, "train_loss": 3.0, "valid_loss": 3.25}]
    assert rows["broken"]["problem"]


def test_show_tells_norms_and_warns_of_an_update_of_zero(
    make_mlx: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_mlx(scale=0.0)
    (folder / "run.json").write_text('{"seed": 7, "base": {"id": "verse-tiny"}}')
    code, out, _ = run(capsys, "show", "mine", "--adapters", str(folder.parent))
    assert code == 0
    assert "its update is zero" in out
    assert "run seed" in out
    code, out, _ = run(capsys, "show", "mine", "--json", "--adapters", str(folder.parent))
    assert set(json.loads(out)["modules"].values()) == {0.0}


def test_the_norm_of_an_update_is_that_of_the_whole_product(make_mlx: Make) -> None:
    import numpy as np

    from verse_trainer.adapters.factors import read_factors

    chosen = choose(make_mlx().parent, "mine")
    for factors in read_factors(chosen.weights, chosen.folder.config).values():
        product = factors.scale * factors.a @ factors.b
        assert factors.delta_norm == pytest.approx(float(np.linalg.norm(product)), rel=1e-3)


def test_the_examples_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "list", "--json", "--adapters", str(ROOT / "adapters"))
    assert code == 0
    rows = json.loads(out)
    assert {"xuzhimo", "libai"} <= {row["name"] for row in rows}
    assert not any(row["problem"] for row in rows)
    assert run(capsys, "show", "xuzhimo", "--adapters", str(ROOT / "adapters"))[0] == 0


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        (("show", "nobody"), "no adapter 'nobody'"),
        (("show", "../mine"), "no name"),
        (("show", ".trash"), "no name"),
        (("export", "mine@7", "-o", "x"), "its checkpoints are: none"),
        (("export", "mine@best", "-o", "x"), "does not record"),
        (("export", "mine:0.5", "-o", "x"), "strength"),
        (("export", "mine+mine", "-o", "x"), "One adapter"),
        (("export", "mine@", "-o", "x"), "is not NAME"),
        (("remove", "mine@9", "-y"), "no checkpoint 9"),
        (("remove", "../mine", "-y"), "is not NAME"),
        (("import", "nowhere"), "adapter_config.json is missing"),
        (("fuse", "mine", "-o", "x", "--model", "nowhere"), "cannot be applied"),
    ],
)
def test_a_mistake_is_one_sentence(
    make_mlx: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    about: str,
) -> None:
    make_mlx()
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert about in err
    assert err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_a_folder_that_is_not_there_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "list", "--adapters", "nowhere")
    assert (code, err.count("\n")) == (2, 1)


def test_a_removed_adapter_is_in_the_trash_and_nothing_else_is_touched(make_mlx: Make) -> None:
    folder = make_mlx()
    weights = (folder / "adapters.safetensors").read_bytes()
    now = datetime(2026, 11, 24, 15, 0, tzinfo=UTC)
    places = [remove(folder.parent, AdapterPart("mine"), now)]
    places[0].rename(folder)
    places[0].mkdir()  # the place is taken
    places.append(remove(folder.parent, AdapterPart("mine"), now))
    assert not folder.exists()
    assert places[1].name == "mine-20261124-150000-2"
    assert (places[1] / "adapters.safetensors").read_bytes() == weights


def test_one_checkpoint_is_removed_and_the_others_stay(make_mlx: Make) -> None:
    folder = make_mlx()
    for step in (10, 20):
        shutil.copy(folder / "adapters.safetensors", folder / f"{step:07d}_adapters.safetensors")
    place = remove(folder.parent, AdapterPart("mine", 10), datetime(2026, 1, 1, tzinfo=UTC))
    assert place.suffix == ".safetensors"
    assert place.is_file()
    assert list(choose(folder.parent, "mine@last").folder.checkpoints) == [20]


def test_remove_asks_first(
    make_mlx: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_mlx()

    def no(_: str) -> bool:
        return False

    monkeypatch.setattr("typer.confirm", no)
    assert run(capsys, "remove", "mine", "--adapters", str(folder.parent))[0] == 1
    assert folder.exists()


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_fused_model_computes_what_base_and_adapter_do(
    make_mlx: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], strength: float
) -> None:
    folder = make_mlx(scale=1.0)
    spelling = "mine" if strength == 1 else f"mine:{strength}"
    options = ("--model", str(VERSE_TINY), "--adapters", str(folder.parent))
    code, out, err = run(capsys, "fuse", spelling, "-o", str(tmp_path / "fused"), *options)
    assert (code, err) == (0, "")
    assert "logits agree" in out
    path = "model.layers.5.mlp.down_proj"
    adapter = load_file(folder / "adapters.safetensors")
    delta = strength * (adapter[f"{path}.lora_a"] @ adapter[f"{path}.lora_b"]).T
    before, after = (
        load_file(f / "model.safetensors")[f"{path}.weight"].astype("f4")
        for f in (VERSE_TINY, tmp_path / "fused")
    )
    assert abs(after - before - delta).max() < 2e-3
    assert (tmp_path / "fused" / "tokenizer.json").exists()
    assert run(capsys, "fuse", spelling, "-o", str(tmp_path / "fused"), *options)[0] == 2


def test_an_adapter_of_another_base_is_not_fused(
    make_mlx: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_mlx(layers=(0, 9))
    options = ("--model", str(VERSE_TINY), "--adapters", str(folder.parent))
    code, _, err = run(capsys, "fuse", "mine", "-o", str(tmp_path / "fused"), *options)
    assert (code, err.count("\n")) == (2, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["adapters"]


class _Server(BaseHTTPRequestHandler):
    seen: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen.append(body)  # pyright: ignore
        known = body["model"] != "nobody"
        poem = f"{body['model']}\n{body['messages'][-1]['content']}{body['seed']}"
        answer = {"choices": [{"message": {"content": poem}}]}
        error = {"error": {"message": "The model 'nobody' does not exist."}}
        content = json.dumps(answer if known else error).encode()
        self.send_response(200 if known else 404)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as running:
        running.seen = []  # pyright: ignore
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_models_are_compared_under_the_same_seeds(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{server.server_port}/v1"
    output = tmp_path / "poems.md"
    options = ("--themes", "河，灯", "-n", "2", "--base-url", url, "-o", str(output))
    code, out, _ = run(capsys, "compare", "a@7", "b:0.5", *options)
    assert code == 0
    assert [(r["model"], r["seed"]) for r in server.seen[:4]] == [
        ("a@7", 0),
        ("b:0.5", 0),
        ("a@7", 1),
        ("b:0.5", 1),
    ]
    assert "灯1" in out
    assert "**b:0.5**\n\n> b:0.5\\\n> 灯1" in output.read_text("utf-8")


def test_a_server_that_is_down_or_says_no_is_one_sentence(
    server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{server.server_port}/v1"
    code, _, err = run(capsys, "compare", "nobody", "--base-url", url)
    assert (code, err.count("\n")) == (2, 1)
    assert "does not exist" in err
    code, _, err = run(capsys, "compare", "a", "--base-url", "http://127.0.0.1:9/v1")
    assert (code, err.count("\n")) == (2, 1)
    assert "verse serve" in err


def test_themes_come_from_a_list_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "themes.txt"
    file.write_text("河\n\n 母亲 \n", "utf-8")
    assert read_themes(str(file)) == ["河", "母亲"]
    assert read_themes("河, 母亲") == ["河", "母亲"]
    assert len(read_themes("，".join(["河"] * 300))) == 300
    file.write_bytes("河".encode("gbk"))
    for given in (str(file), " , "):
        with pytest.raises(TrainerError):
            read_themes(given)


def test_markdown_of_nothing_is_a_title() -> None:
    assert as_markdown(["a"], []) == "# a\n"


def test_the_spelling_of_a_name_is_checked_before_anything_is_opened(tmp_path: Path) -> None:
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "out").symlink_to(tmp_path)
    with pytest.raises(ConversionError, match="no adapter 'out'"):
        choose(tmp_path / "adapters", "out")


def test_the_guide_names_every_command_and_option() -> None:
    import typer

    from verse_trainer.adapters.cli import app

    guide = (ROOT / "docs" / "adapters.md").read_text("utf-8")
    group: Any = typer.main.get_command(app)
    named = set(re.findall(r"`(--[a-z-]+)", guide))
    real = {o for c in group.commands.values() for p in c.params for o in p.opts if o[:2] == "--"}
    assert {f"verse adapters {name}" for name in group.commands} == set(
        re.findall(r"verse adapters [a-z]+", guide)
    )
    assert named <= real
