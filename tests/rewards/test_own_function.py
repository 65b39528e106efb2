"""A reward function of a user's own: found, checked, told what it sees, guarded."""

from __future__ import annotations

import io
import json
import math
import time
from pathlib import Path

import pytest

from areal_cppo.cli.main import main
from areal_cppo.config.blocks import RewardConfig
from areal_cppo.config.experiment import load_config
from areal_cppo.errors import UserError
from areal_cppo.rewards.own import check_function
from areal_cppo.rewards.parts import Reward
from areal_cppo.rewards.pool import RewardError, RewardPool, RewardTimeout
from areal_cppo.rollout.first_look import try_reward
from areal_cppo.tasks.experiment import load_task
from areal_cppo.tasks.problems import TRIANGLES

CHECKPOINT = str(TRIANGLES.checkpoint)
FILE = """
import os, subprocess, sys, time
from dataclasses import dataclass
from beside import WORTH

@dataclass  # looks its module up
class Worth:
    value: float = WORTH

NUMBER = 1.0

def whole(completions, answer, **_):
    return Worth().value * (answer in completions)

def parts(completions, answer, **_):
    if not completions:
        return 0
    return {"right": answer in completions, "short": len(completions) < 12}

def shown(completions, answer, **_):
    return parts(completions, str(answer))

def names(completions, names, values, question, **_):
    return float(bool(completions) and len(names) == len(values) and question == "P?")

def narrow(completions):
    return 1.0

def needs(completions, tolerance, **_):
    return 1.0

def same(**_):
    return 0.5

def told(completions, **seen):
    import json
    return float(json.dumps(seen, sort_keys=True) == completions)

def reads(**_):
    return len(sys.stdin.read())

def leaves_a_child(completions, **_):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(completions, "w") as file:
        file.write(str(child.pid))
    time.sleep(600)

def fails(completions, **_):
    if completions == "hang":
        time.sleep(600)
    return int("payload")

async def later(**_):
    return 1.0

def text(**_):
    return "1.0"
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "beside.py").write_text("WORTH = 2.0\n")
    made = tmp_path / "my rewards.py"
    made.write_text(FILE)
    return made


def ask(function: str, seconds=30.0, weights=None, **arguments) -> Reward:
    given = {"prompt": "?", "completions": "5", "prompt_ids": [], "completion_ids": []}
    with RewardPool(function, seconds, 1, weights) as pool:
        return pool.submit(**given | arguments).result()


def test_a_file_and_a_module(file):
    assert ask(f"{file}:whole", answer="5").value == 2.0
    assert ask("tests.rewards.reward_functions:process_id").value > 1


def test_the_example_of_the_docs(tmp_path):
    page = Path("docs/rewards.md").read_text(encoding="utf-8")
    code = page.split("```python\n# my_rewards.py\n")[1].split("```")[0]
    (tmp_path / "my_rewards.py").write_text(code)
    function = f"{tmp_path}/my_rewards.py:reward"
    check_function(function, ["answer", "tolerance"])
    settings = {"weights": {"answer": 0.9, "short": 0.1}, "tolerance": 0.1}
    for text, worth in ((r"\boxed{5.05}", 1.0), ("", 0.1), ("6" * 400, 0.0)):
        found = ask(function, completions=text, answer="5", **settings)
        assert found.value == pytest.approx(worth)


def test_parts_have_weights(file):
    reward = ask(f"{file}:parts", weights={"right": 0.5}, answer="5")
    assert (reward.value, reward.parts) == (0.5, {"right": 1.0, "short": 1.0})
    for weights, words in (
        ({}, r"parts \(right, short\) without weights"),
        (
            {"style": 1.0},
            "no part style, which has a weight .* among right, short",
        ),
    ):
        with pytest.raises(RewardError, match=words):
            ask(f"{file}:parts", weights=weights, answer="5")


def test_it_sees_what_is_named_and_nothing_else(file):
    seen = {
        "prompt": "?",
        "prompt_ids": [1],
        "completion_ids": [2],
        "answer": "½",
        "self": [{"a": None}],  # a column may have any name
        "not a name": math.inf,
    }
    assert ask(f"{file}:told", completions=json.dumps(seen, sort_keys=True), **seen)


def test_it_is_guarded(file, tmp_path, gone):
    """Its time, its errors, what it reads, and what it has started."""
    with pytest.raises(RewardError, match=r"^ValueError in fails, line \d+ of my rewa"):
        ask(f"{file}:fails")
    assert ask(f"{file}:reads").value == 0
    with pytest.raises(RewardTimeout):
        ask(f"{file}:leaves_a_child", 3.0, completions=str(tmp_path / "pid"))
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 20
    while not gone(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert gone(child)
    for name, words in (("later", "type coroutine"), ("text", "of type str")):
        with pytest.raises(RewardError, match=words):
            ask(f"{file}:{name}")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("no_such_module:f", "found no module no_such_module;"),
        ("tests.rewards.nowhere:f", "found no module tests.rewards.nowhere;"),
        ("/no/such.py:f", "found no file /no/such.py;"),
        ("{file}:hole", "found no hole in my rewards.py; did you mean whole?;"),
        ("{file}:NUMBER", "found NUMBER of type float, no function;"),
        ("{file}:narrow", "unexpected keyword argument 'prompt'; add **_ to its para"),
        ("{file}:needs", "missing a required argument: 'tolerance'; name it in rew"),
        (
            "import nump\ny",
            "found ModuleNotFoundError: No module named 'nump', line 1",
        ),
        ("x = 1\nx = = 2", "found SyntaxError: invalid syntax, line 2 of broken.py;"),
        ("\n\n1 / 0", "found ZeroDivisionError: division by zero, line 3 of broken.py"),
        ("import sys\nsys.exit(3)", "found SystemExit: 3, line 2 of broken.py"),
        ("import os\nos._exit(3)", "found the process ended with exit code 3"),
    ],
)
def test_mistakes_are_told_early(file, tmp_path, function, words):
    if ":" not in function:
        (tmp_path / "broken.py").write_text(function)
        function = f"{tmp_path}/broken.py:reward"
    with pytest.raises(UserError) as error:
        check_function(function.format(file=file), ["answer"])
    assert words in str(error.value) and len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"function": "rewards"}, "reward.function: expected module:name or FILE.py"),
        ({"function": "a.py:b.c"}, "reward.function: expected module:name or FILE.py"),
        ({"function": ":f"}, "reward.function: expected"),
        ({"weights": {"a": 1.0}}, "reward.weights: expected {} without reward.functi"),
        ({"sees": ["question"]}, "reward.sees: expected ['answer'] without reward."),
        ({"function": "a:f", "answer_weight": 1.0}, "reward.answer_weight: expected"),
        ({"function": "a:f", "weights": {"a": math.nan}}, "reward.weights.a: expected"),
        ({"function": "a:f", "sees": ["images"]}, "reward.sees: expected names"),
        ({"function": "a:f", "sees": ["b", "b"]}, "reward.sees: expected names"),
    ],
)
def test_settings_that_do_nothing_are_refused(settings, words):
    with pytest.raises(ValueError) as error:
        RewardConfig(**settings)
    assert str(error.value).startswith(words)


def test_a_file_is_found_from_any_folder(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    config = RewardConfig(function=f"{file.name}:whole")
    assert config.function == f"{file}:whole"
    assert RewardConfig(function=config.function).function == config.function
    assert RewardConfig(function="a.b:c").function == "a.b:c"
    assert RewardConfig(function="~/a.py:c").function == f"{Path.home()}/a.py:c"


@pytest.fixture
def look(file, tmp_path):
    """What is said of a function before the triangle task is started."""

    def look(name: str, **more) -> list[str]:
        settings = {
            "reward.function": f"'{file}:{name}'",
            "actor.path": CHECKPOINT,
            "tokenizer_path": CHECKPOINT,
            "run_dir": tmp_path / "run",
            **more,
        }
        overrides = [f"{key}={value}" for key, value in settings.items()]
        task = load_task(load_config("configs/triangles.yaml", overrides))
        return try_reward(task.workflow_kwargs, task.train_dataset()[0])

    return look


def test_the_first_look(look):
    (line,) = look("shown", **{"reward.weights": "{right: 1, short: 0.5}"})
    parts = "for the true answer 1.5 (right 1, short 1), for an empty response 0"
    assert line == f"reward: {parts}"
    (line,) = look("names", **{"reward.sees": "[names, values, question]"})
    assert line == "reward: for the true answer 1, for an empty response 0"
    line, warning = look("same")
    assert "answer 0.5, for an empty response 0.5" in line
    assert warning.startswith("warning: reward: the true answer in a box is worth as")


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("fails", {}, "found for the true answer of problem train-1-0: ValueError in"),
        ("same", {"reward.weights": "{a: 1}"}, "expected parts a from .*one number"),
        ("same", {"reward.sees": "[category]"}, "a synthetic task has no other colum"),
        ("gone", {}, "no gone in my rewards.py"),
    ],
)
def test_a_first_look_that_refuses(look, name, settings, words):
    with pytest.raises(UserError, match=words) as error:
        look(name, **settings)
    assert len(str(error.value).splitlines()) == 1


def reward(capsys, *arguments: str, status: int = 0) -> list[str]:
    command = ["reward", "--config", "configs/triangles.yaml", "--truth", "0.5"]
    assert main([*command, *arguments]) == status
    printed = capsys.readouterr()
    return (printed.err if status else printed.out).splitlines()


def test_the_command_with_other_functions(capsys, monkeypatch, file):
    monkeypatch.setattr("sys.stdin", io.StringIO(r"<think></think>\boxed{12}"))
    lines = reward(capsys, "--truth", "12", "--response", "-")
    assert lines[-3:] == ["part answer: 1 x 0.9", "part format: 1 x 0.1", "reward: 1"]
    own = [f"reward.function='{file}:told'", "reward.sees=[answer, category]"]
    seen = {"answer": "0.5", "category": [1, "x"], "prompt": ""}
    seen |= {"prompt_ids": [], "completion_ids": []}
    text = json.dumps(seen, sort_keys=True)
    column = '--sees=category=[1, "x"]'
    *_, worth = reward(capsys, "--response", text, column, *own)
    assert worth == "reward: 1"
    for arguments, status, words in (
        ((text, *own), 2, "expected all of reward.sees, found no category; add"),
        ((text, "--sees=b=1", *own), 2, "--sees: expected NAME=VALUE of reward.sees"),
        (("@/no/such",), 2, "--response: expected a text file after @"),
        (("x", f"reward.function='{file}:gone'"), 2, "no gone in my rewards.py"),
        (("x", "reward.answer_weight=-1"), 2, "reward.answer_weight: expected a num"),
        (("x", f"reward.function='{file}:fails'"), 2, "found ValueError in fails"),
    ):
        (line,) = reward(capsys, "--response", *arguments, status=status)
        assert words in line
