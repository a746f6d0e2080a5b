"""`verse data import FOLDER`: what is found is shown, asked about and imported; the rest is not."""

import json
from pathlib import Path

import msgspec
import pytest

from tests.trainer.data_set.original import generated, listed, seed_text, write_lines
from tests.trainer.data_set.poem_pile import make_text
from tests.trainer.data_set.poets_folder import ASKED, FOUND, LEFT, REFUSED, make_folder
from verse import jsonl
from verse.cli import main
from verse.records import Poem
from verse_trainer.data_set import cli

POEM = msgspec.json.Decoder(Poem)
ADDED = sorted({(theme, name) for name, (_, themes) in FOUND.items() for theme in themes})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("poet") / "我的 诗")


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / made.name).symlink_to(made)
    return Path(made.name)


def imported() -> list[Poem]:
    return jsonl.read(Path("poems.jsonl"), POEM)


def test_everything_in_a_folder_is_found_or_left_out_for_a_reason(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(FOUND) + len(LEFT) + len(REFUSED) + len(ASKED) > 30
    assert main(["data", "import", str(folder), "-o", "poems.jsonl", "--yes"]) == 0
    told = capsys.readouterr()
    sources = {(poem.theme, poem.source.rpartition(":")[0]) for poem in imported()}
    # A poem that several files have is there once, under the first of them.
    assert {theme for theme, _ in sources} == {theme for theme, _ in ADDED}
    for name, (_, themes) in FOUND.items():
        assert f"{folder}/{name}" in told.out
        assert all(f"    {theme}: " in told.out for theme in themes)
    left = {line for line in told.out.splitlines() if line.startswith("left out, ")}
    for name, (_, kind) in LEFT.items():
        assert any(line.startswith(f"left out, {kind}: ") for line in left), kind
        assert not any(source.endswith(f"/{name}") for _, source in sources)
    for name, (_, problem) in REFUSED.items():
        (line,) = [line for line in told.err.splitlines() if f"{folder}/{name}:" in line]
        assert line.startswith("refused: ")
        assert problem in line
    for name, (_, why) in ASKED.items():
        assert f"{folder}/{name}:1: 1 text, because {why}:" in told.out
    assert f"{folder}/聊天.txt:2: 1 text, because 张三 sent it:" in told.out
    assert "4 texts left out; `--doubtful` takes such texts." in told.out
    assert "huge.txt:1: it has 2048 MB" in told.err
    assert f"{folder}/小说.txt: 1 text to ask about" in told.out
    assert f"{folder}/made.json: 1 unreviewed and left out" in told.out
    assert "1 mark in place of rare characters" in told.out
    assert ".git" not in told.out


def test_who_and_when_are_fields_and_no_lines(folder: Path) -> None:
    assert main(["data", "import", str(folder / "我的 诗.docx"), "-o", "poems.jsonl"]) == 0
    assert {(poem.theme, poem.author, poem.date) for poem in imported()} == {
        ("渡口", "张三", "2020.1.2 于杭州"),
        ("雪", "张三", "2020.1.2 于杭州"),
    }
    assert not any("张三" in poem.text or "2020" in poem.text for poem in imported())


def test_without_a_terminal_and_without_yes_nothing_is_imported(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "import", str(folder), "-o", "poems.jsonl"]) == 2
    told = capsys.readouterr()
    assert "    渡口: " in told.out
    assert told.err.endswith(
        "Nothing was imported, for there is no terminal to ask at; "
        "say --yes to import what is shown above.\n"
    )
    assert "refused: " in told.err
    assert not Path("poems.jsonl").exists()


def answers(monkeypatch: pytest.MonkeyPatch, *, taken: bool, added: bool) -> list[str]:
    asked: list[str] = []

    def confirm(question: str, default: bool = False) -> bool:
        asked.append(question)
        return taken if question == "Take them?" else added

    monkeypatch.setattr(cli, "_is_terminal", lambda: True)
    monkeypatch.setattr("typer.confirm", confirm)
    return asked


def test_at_a_terminal_each_doubt_and_then_all_is_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answers(monkeypatch, taken=True, added=True)
    assert main(["data", "import", str(folder), "-o", "poems.jsonl"]) == 0
    assert asked[:-1] == ["Take them?"] * 4
    assert asked[-1].endswith(" poems to poems.jsonl?")
    assert {"小说", "长诗"} <= {poem.theme for poem in imported()}


def test_who_says_no_has_nothing_imported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, taken=False, added=False)
    assert main(["data", "import", str(folder), "-o", "poems.jsonl"]) == 0
    assert not Path("poems.jsonl").exists()


def test_what_is_doubtful_or_unreviewed_is_taken_when_it_is_asked_for(folder: Path) -> None:
    command = ["data", "import", str(folder / "小说.txt"), str(folder / "made.json")]
    assert main([*command, "-o", "poems.jsonl"]) == 2
    assert main([*command, "-o", "poems.jsonl", "--doubtful", "--unreviewed"]) == 0
    assert [(poem.theme, poem.origin) for poem in imported()] == [
        ("小说", "poet"),
        ("灯", "accepted"),
    ]


def test_a_file_named_by_itself_is_read_whatever_it_is_called(folder: Path) -> None:
    Path("words.txt").write_text("河\n\n水在走\n灯不走", "utf-8")
    assert main(["data", "import", "words.txt", "-o", "poems.jsonl"]) == 0
    assert len(imported()) == 1


def test_a_file_named_by_itself_that_looks_like_something_else_is_asked_about(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = folder / "notes" / "output.txt"
    assert main(["data", "import", str(log), "-o", "poems.jsonl"]) == 2
    assert "1 text, because it looks like a log:" in capsys.readouterr().out


def test_encoding_columns_and_sender_are_the_users_to_say(folder: Path) -> None:
    command = ["data", "import", "-o", "poems.jsonl"]
    assert main([*command, str(folder / "three.csv"), "--text-column", "4"]) == 0
    assert main([*command, str(folder / "聊天.txt"), "--sender", "李四"]) == 0
    assert main([*command, str(folder / "gbk" / "渡口.txt"), "--encoding", "gbk"]) == 0
    assert main([*command, str(folder / "gbk" / "雪.txt"), "--encoding", "utf-8"]) == 2
    assert [poem.theme for poem in imported()] == ["a", "雪", "渡口"]


def test_a_folder_that_cannot_be_read_from_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.bin").write_bytes(b"x")
    assert main(["data", "import", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"{tmp_path} holds no file that poems could be read from.\n"


def original_tree(folder: Path) -> Path:
    """A tree of the original project's shape: 66 training rows among everything else it has."""
    made = [generated(f"题{n}", f"机器写的\n第{n}行") for n in range(5)]
    texts = {
        "README.md": "# Poems\n\n```\npip install -r requirements.txt\n```\n",
        "requirements.txt": "mlx\n",
        "process2.py": "import json\nprint(1)\n",
        "lora5.yaml": "model: x\n",
        "words.txt": "河 雨 雪 灯 " * 80,
        "prompts/variants.txt": "写一首关于{theme}的诗\n",
        "logs/out.txt": "Iter 10: Train loss 2.3\nIter 20: Train loss 2.2\n",
        "adapters/adapter_config.json": "{}",
        "generated.json": json.dumps({"河": made}, ensure_ascii=False),
        "flat.json": json.dumps(made, ensure_ascii=False),
        "list.json": json.dumps([listed(n, f"机器写的\n{n}") for n in range(3)]),
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    rows = [{"text": seed_text(f"题{n}", make_text(n))} for n in range(66)]
    write_lines(folder / "data" / "valid.jsonl", *[{"text": "静夜\n<|end|>\n床前"}] * 30)
    write_lines(folder / "data" / "train.jsonl", *rows)
    write_lines(folder / "data" / "train_enriched.jsonl", *rows)
    return folder


def test_a_tree_of_the_original_project_gives_its_poems_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tree" / "data").mkdir(parents=True)
    original_tree(tmp_path / "tree")
    monkeypatch.chdir(tmp_path)
    assert main(["data", "import", "tree", "-o", "poems.jsonl", "--yes"]) == 0
    assert sorted(poem.text for poem in imported()) == sorted(make_text(n) for n in range(66))


def test_one_file_that_cannot_be_opened_is_no_matter_to_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "poems"
    folder.mkdir()
    (folder / "河.txt").write_text("水在走", "utf-8")
    (folder / "锁.txt").symlink_to("锁.txt")  # nobody can open a link to itself
    (folder / "gone.txt").symlink_to("nowhere.txt")
    assert main(["data", "import", "poems", "-o", "poems.jsonl", "--yes"]) == 0
    assert len(imported()) == 1
