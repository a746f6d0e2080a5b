"""A round goes on where it stopped, whatever stopped it; the commands are stand-ins."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from filelock import lock_descriptor

from tests.clients.refine.conftest import later, own_text, write_poets_files
from verse import jsonl
from verse.records import Decision, Poem
from verse_clients.decisions.sources import read_items
from verse_clients.refine import rounds
from verse_clients.refine.plan import Extra, JudgePlan, Plan, RoundError, read_plan, write_plan
from verse_clients.refine.record import StepState, read_record
from verse_clients.refine.runner import Program, StepFailedError
from verse_clients.refine.steps import steps

STUB = Program(argv=(sys.executable, "-S", str(Path(__file__).with_name("stub_verse.py"))))
DRIVER = (
    "from pathlib import Path; import sys\n"
    "from verse_clients.refine import rounds; from verse_clients.refine.runner import Program\n"
    "rounds.advance(Path(sys.argv[1]), Program(argv=tuple(sys.argv[2:])), print)\n"
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A poet's folder with a round that has begun."""
    monkeypatch.chdir(tmp_path)
    poems = [Poem(theme=f"题{number}", text=own_text(number)) for number in range(8)]
    write_poets_files(tmp_path / "data", poems, num_valid=2)
    Path("data/themes.txt").write_text("题0\n题1\n", "utf-8")
    plan = Plan(adapters=("old",), new_adapter="adapters/new", judges=(JudgePlan(model="base"),))
    return rounds.start_round(plan)


def calls() -> list[str]:
    log = Path("calls.log")
    return [" ".join(line.split()[:2]) for line in log.read_text("utf-8").splitlines()]


def silent(_: str) -> None:
    pass


def advance(folder: Path) -> StepState | None:
    return rounds.advance(folder, STUB, silent)


def decide(folder: Path, count: int | None = None) -> None:
    """Accept every other poem of the queue."""
    for number, item in enumerate(read_items([folder / "ranked.json"])[:count]):
        action = "accept" if number % 2 else "reject"
        entry = Decision(action=action, candidate=item.candidate, blind=True, time=later(number))
        jsonl.append(folder / "decisions.jsonl", entry)


def state_of(folder: Path) -> dict[str, str]:
    return {state.step.name: state.state for state in rounds.look_at(folder)}


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def driven(folder: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", DRIVER, str(folder), *STUB.argv]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)


def kill_all(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    """The round's process and the command it runs."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: _is_free(folder))


def test_a_round_goes_to_the_poet_and_from_there_to_its_end(folder: Path) -> None:
    waiting = advance(folder)
    assert waiting is not None
    assert rounds.invitation(waiting.step).splitlines()[1].strip() == (
        "verse curate rounds/01/ranked.json --training data/poems.jsonl"
    )
    assert calls() == ["generate --themes", "refine filter", "judge -i"]
    decide(folder)
    assert advance(folder) is None
    assert set(state_of(folder).values()) == {"done"}
    assert calls()[3:] == [
        "refine convert", "data split", "train -c", "generate --themes", "generate --themes",
        "refine compare",
    ]  # fmt: skip
    assert (folder / "compare" / "poems.jsonl").read_text("utf-8").count("\n") == 6


def test_what_is_done_and_unchanged_is_not_done_again(folder: Path) -> None:
    advance(folder)
    num_calls = len(calls())
    advance(folder)
    rounds.run_one(folder, "judge", STUB, silent)
    assert len(calls()) == num_calls


def test_a_changed_input_makes_its_step_and_those_behind_it_run_again(folder: Path) -> None:
    advance(folder)
    decide(folder)
    advance(folder)
    item = read_items([folder / "ranked.json"])[0]
    later_thought = Decision(action="accept", candidate=item.candidate, blind=True, time=later(99))
    jsonl.append(folder / "decisions.jsonl", later_thought)
    assert state_of(folder) | {"convert": "changed"} == state_of(folder)
    before = len(calls())
    assert advance(folder) is None
    assert calls()[before:][:3] == ["refine convert", "data split", "train -c"]
    assert Path("adapters/new.1/adapters.safetensors").exists()
    assert Path("adapters/new/adapters.safetensors").exists()


def test_a_changed_plan_makes_the_step_run_again_with_its_new_words(folder: Path) -> None:
    advance(folder)
    write_plan(
        folder, msgspec.structs.replace(read_plan(folder), judges=(JudgePlan(model="other"),))
    )
    assert state_of(folder)["judge"] == "changed"
    advance(folder)
    assert "--judge other" in Path("calls.log").read_text("utf-8").splitlines()[-1]


def test_the_poet_is_asked_until_all_is_decided_or_converted_by_hand(folder: Path) -> None:
    advance(folder)
    decide(folder, 3)
    waiting = advance(folder)
    assert waiting is not None
    assert waiting.why == "3 of 6 decided"
    rounds.run_one(folder, "convert", STUB, silent)
    assert advance(folder) is None


def test_a_failed_step_keeps_its_exit_code_and_last_lines_and_is_tried_again(folder: Path) -> None:
    Path("fail-judge").touch()
    with pytest.raises(StepFailedError, match=r"exit code 2: The server is down; start it"):
        advance(folder)
    ran = read_record(folder).last("judge")
    assert ran is not None
    assert (ran.exit, ran.tail[0]) == (2, "first line")
    assert state_of(folder)["judge"] == "failed"
    Path("fail-judge").unlink()
    advance(folder)
    assert state_of(folder)["judge"] == "done"
    assert calls().count("generate --themes") == 1


def test_a_kill_inside_a_step_and_a_second_start_ask_for_no_poem_twice(folder: Path) -> None:
    Path("slow-generate").touch()
    process = driven(folder)
    wait_for(lambda: (folder / "poems.jsonl").exists() and _lines(folder / "poems.jsonl") == 3)
    kill_all(process, folder)
    assert state_of(folder)["generate"] == "stopped"
    Path("slow-generate").unlink()
    advance(folder)
    asked = Path("asked.log").read_text("utf-8").splitlines()
    assert len(asked) == len(set(asked)) == 6
    assert [ran.exit for ran in read_record(folder).runs][:2] == [None, 0]


def test_a_command_that_outlives_its_killed_parent_keeps_the_round_to_itself(folder: Path) -> None:
    Path("slow-generate").touch()
    process = driven(folder)
    wait_for(lambda: (folder / "poems.jsonl").exists() and _lines(folder / "poems.jsonl") == 3)
    process.kill()
    process.wait()
    assert not _is_free(folder)
    with pytest.raises(RoundError, match="Another process is working on rounds/01"):
        advance(folder)
    Path("slow-generate").unlink()
    wait_for(lambda: _lines(folder / "poems.jsonl") == 6)
    wait_for(lambda: _is_free(folder))
    advance(folder)
    assert len(Path("asked.log").read_text("utf-8").splitlines()) == 6


def test_a_kill_between_steps_costs_nothing(folder: Path) -> None:
    """Stopped at the very moments when the record is written."""
    process = driven(folder)
    wait_for(lambda: read_record(folder).last("filter") is not None)
    kill_all(process, folder)
    waiting = advance(folder)
    assert waiting is not None
    assert waiting.step.name == "curate"
    assert len(Path("asked.log").read_text("utf-8").splitlines()) == 6


def test_a_new_adapter_is_compared_by_poems_of_its_own_and_with_the_old_one_s_seeds(
    folder: Path,
) -> None:
    advance(folder)
    decide(folder)
    advance(folder)
    log = Path("calls.log").read_text("utf-8").splitlines()
    assert [line.endswith("--common-seeds") for line in log if "/compare/" in line] == [
        True, True, False,
    ]  # fmt: skip
    before = (folder / "compare" / "new.jsonl").read_text("utf-8")
    Path("adapters/new/adapters.safetensors").write_bytes(b"trained by hand")
    assert state_of(folder)["compare"] == "changed"
    Path("asked.log").unlink()
    advance(folder)
    assert (folder / "compare" / "new.jsonl.1").read_text("utf-8") == before
    assert len(Path("asked.log").read_text("utf-8").splitlines()) == 2 * 6


def test_a_plan_says_more_about_how_the_two_adapters_write_to_be_compared(folder: Path) -> None:
    more = Extra(generate=("--top-p", "0.5"), compare=("--temperature", "0.3"))
    (folder / "plan.toml").unlink()
    plan = Plan(adapters=("old",), new_adapter="adapters/new", extra=more)
    write_plan(folder, plan)
    assert read_plan(folder).extra == more
    (compare,) = [step for step in steps(read_plan(folder), folder) if step.name == "compare"]
    *writes, mixes = compare.commands
    assert [command[-3:] for command in writes] == [("--common-seeds", *more.compare)] * 2
    assert "--temperature" not in mixes


def test_a_comparison_that_failed_goes_on_with_the_poems_it_has(folder: Path) -> None:
    advance(folder)
    decide(folder)
    advance(folder)
    (folder / "compare" / "numbers.json").unlink()
    Path("asked.log").unlink()
    advance(folder)
    assert not Path("asked.log").exists()
    assert not (folder / "compare" / "new.jsonl.1").exists()


def test_training_that_was_stopped_is_resumed_and_only_then(folder: Path) -> None:
    advance(folder)
    decide(folder)
    Path("slow-train").touch()
    process = driven(folder)
    wait_for(lambda: Path("adapters/new/run.json").exists())
    kill_all(process, folder)
    Path("slow-train").unlink()
    advance(folder)
    trained = [
        line for line in Path("calls.log").read_text("utf-8").splitlines() if line[:5] == "train"
    ]
    assert [line.endswith("--resume") for line in trained] == [False, True]
    assert state_of(folder)["train"] == "done"


def test_training_that_never_began_is_not_resumed(folder: Path) -> None:
    advance(folder)
    decide(folder)
    Path("fail-train").touch()
    with pytest.raises(StepFailedError):
        advance(folder)
    Path("fail-train").unlink()
    advance(folder)
    assert "--resume" not in Path("calls.log").read_text("utf-8")


def test_training_that_was_stopped_and_has_other_rows_now_begins_anew(folder: Path) -> None:
    advance(folder)
    decide(folder)
    Path("slow-train").touch()
    process = driven(folder)
    wait_for(lambda: Path("adapters/new/run.json").exists())
    kill_all(process, folder)
    Path("slow-train").unlink()
    write_plan(folder, msgspec.structs.replace(read_plan(folder), preset="other"))
    advance(folder)
    assert "--resume" not in Path("calls.log").read_text("utf-8")
    assert Path("adapters/new.1/run.json").exists()


def test_an_adapter_that_is_not_from_this_round_is_left_alone(folder: Path) -> None:
    advance(folder)
    decide(folder)
    Path("adapters/new").mkdir(parents=True)
    with pytest.raises(RoundError, match="not from this round; change new_adapter"):
        advance(folder)
    assert not list(Path("adapters/new").iterdir())


def test_an_output_that_is_gone_is_made_again(folder: Path) -> None:
    advance(folder)
    (folder / "ranked.json").unlink()
    assert state_of(folder)["judge"] == "changed"
    advance(folder)
    assert (folder / "ranked.json").exists()


def test_without_a_judge_the_poet_reads_what_the_filter_left(folder: Path) -> None:
    write_plan(folder, msgspec.structs.replace(read_plan(folder), judges=()))
    waiting = advance(folder)
    assert waiting is not None
    assert waiting.step.commands[0][1] == "rounds/01/filtered.jsonl"
    assert state_of(folder)["judge"] == "nothing"


def test_judges_at_one_address_name_it_once_and_at_several_each_its_own(folder: Path) -> None:
    here, there = "http://here/v1", "http://there/v1"
    judges = (JudgePlan(model="base"), JudgePlan(model="other", base_url=there))
    for some, urls in ((judges[:1], [here]), (judges, [here, there])):
        plan = msgspec.structs.replace(read_plan(folder), judges=some, base_url=here)
        words = next(step for step in steps(plan, folder) if step.name == "judge").commands[0]
        named = [words[place + 1] for place, word in enumerate(words) if word == "--base-url"]
        assert named == urls


def test_a_step_whose_input_is_missing_says_which(folder: Path) -> None:
    with pytest.raises(RoundError, match=r"The step judge needs rounds/01/filtered.jsonl"):
        rounds.run_one(folder, "judge", STUB, silent)
    Path("data/split.json").unlink()
    with pytest.raises(
        RoundError, match=r"data/split.json, which does not exist; `verse data split`"
    ):
        advance(folder)


def test_the_next_round_remembers_what_was_decided_before(folder: Path) -> None:
    advance(folder)
    decide(folder)
    plan = msgspec.structs.replace(
        read_plan(folder), new_adapter="adapters/newer", earlier=rounds.earlier_decisions()
    )
    second = rounds.start_round(plan)
    assert second == Path("rounds/02")
    assert rounds.newest_round() == second
    assert read_plan(second).earlier == ("rounds/01/decisions.jsonl",)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "is no round: it has no plan.toml"),
        ('adapters = ["a"]\nnew_adapter = "adapters/b"\ntheme = "x"\n', "unknown field `theme`"),
        ('adapters = []\nnew_adapter = "adapters/b"\n', "adapters is empty"),
        ('adapters = ["a"]\nnew_adapter = "adapters/a"\n', "must not be one of the adapters"),
        ('adapters = ["a"]\nnew_adapter = "adapters/b@3"\n', "is not a valid adapter name"),
        (
            'adapters = ["a"]\nnew_adapter = "adapters/b"\n[[judges]]\nmodel = "m"\n'
            '[[judges]]\nmodel = "n"\nbase_url = "http://x/v1"\n',
            "some judges have a base_url",
        ),
        ("adapters = [", "is not the plan of a round"),
    ],
)
def test_a_foreign_folder_and_a_broken_plan_are_told(content: str | None, sentence: str) -> None:
    foreign = Path("elsewhere")
    foreign.mkdir()
    if content is not None:
        (foreign / "plan.toml").write_text(content, "utf-8")
    with pytest.raises(RoundError, match=sentence):
        rounds.look_at(foreign)


def test_a_broken_record_is_told_and_left_alone(folder: Path) -> None:
    (folder / "round.json").write_text("[1]", "utf-8")
    with pytest.raises(RoundError, match="is not the record of a round"):
        advance(folder)
    assert (folder / "round.json").read_text("utf-8") == "[1]"


def test_without_a_round_it_says_how_to_begin_one(tmp_path: Path) -> None:
    with pytest.raises(RoundError, match="start one with `verse refine start`"):
        rounds.newest_round(tmp_path / "none")


def _lines(path: Path) -> int:
    return path.read_text("utf-8").count("\n")


def _is_free(folder: Path) -> bool:
    handle = os.open(folder / "plan.toml", os.O_RDONLY)
    try:
        return lock_descriptor(handle, blocking=False)
    finally:
        os.close(handle)
