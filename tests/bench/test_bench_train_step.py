"""`areal-cppo bench`, end to end on tiny sizes, and a user's mistakes.

Covers the file's contents, counts worked out by hand, ratios, what a Ctrl-C leaves, a
sweep and the pictures. Not covered: `--gpu`, which needs one; and whether the numbers
are true of anything but the workload.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from copy import deepcopy
from dataclasses import fields

import pytest
import torch

import areal_cppo.bench.train_step as train_step
from areal_cppo.bench.arms import SWITCHES, select_arms
from areal_cppo.bench.counting import Counts
from areal_cppo.bench.results import arms_table, describe_arms, describe_ratios
from areal_cppo.bench.train_step import Measured
from areal_cppo.bench.workload import Workload
from areal_cppo.cli.main import main
from areal_cppo.config.operation import SpeedConfig

LETTERS = ["a", "a*", "b", "c", "d", "e", "f", "d+", "f+"]
CONTRACT = (
    "cppo_over_stock_grpo",
    "cppo_over_published_cppo",
    "grpo_over_stock_grpo",
    "anchor_only_over_stock_grpo",
    "cppo_one_response_over_grpo",
    "peak_memory_cppo_over_stock_grpo",
)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Exit status and what was written by one quick run of all arms."""
    target = tmp_path_factory.mktemp("bench") / "new" / "numbers.json"
    status = main(["bench", "train-step", "--quick", "--json", str(target)])
    return status, json.loads(target.read_text())


@pytest.fixture(scope="module")
def arms(quick):
    return {arm["letter"]: arm for arm in quick[1]["arms"]}


@pytest.mark.slow
def test_what_the_file_holds(quick, arms):
    status, document = quick
    assert status == 0 and document["complete"] is True
    for key in ("machine", "versions", "date", "command", "workload", "ratios"):
        assert document[key]
    assert document["machine"]["threads"] == 1
    assert document["versions"]["areal"] == "1.0.4"
    assert list(arms) == [*LETTERS, *(f"d-{name}" for name in SWITCHES), "d-all"]
    for arm in arms.values():
        assert len(arm["seconds"]["all"]) == 1 and arm["seconds"]["median"] > 0
        for name in ("peak_memory_bytes", "tokens", "patches", "flops"):
            assert arm[name] > 0
            assert arm["ratios"][name] == arm[name] / arms["a"][name]
            assert arm["to_grpo"][name] == arm[name] / arms["c"][name]
    assert set(CONTRACT) <= document["ratios"].keys()
    assert all(value > 0 for value in document["ratios"].values())
    ratio = arms["d"]["seconds"]["median"] / arms["a"]["seconds"]["median"]
    assert document["ratios"]["cppo_over_stock_grpo"] == pytest.approx(ratio)


@pytest.mark.slow
def test_tokens_and_patches_by_hand(quick, arms):
    """Eight sequences fit in one row. AReaL pads it to pages of 256 tokens and passes
    over it twice, once for the proximal policy; the published CPPO four times, with
    each sample's own image each time. Ours has each prompt and image once in a pass,
    and gated responses only in the two passes of views."""
    workload = quick[1]["workload"]
    lengths = Workload(
        **{field.name: workload[field.name] for field in fields(Workload)}
    ).response_lengths()
    prompts = 2 * (4 + 2 + 10)
    row = -(-(4 * prompts + sum(lengths)) // 256) * 256
    patches = 16
    for letter, passes in (("a", 2), ("a*", 2), ("b", 4)):
        assert arms[letter]["tokens"] == passes * row
        assert arms[letter]["patches"] == passes * 8 * patches
    once = prompts + sum(lengths)
    assert arms["c"]["tokens"] == once
    assert arms["c"]["patches"] == 2 * patches
    gated = sum(lengths[:2]) + sum(lengths[4:6])  # at least 40 % of 8: two a group
    assert workload["positive_responses"] == 4
    assert arms["d"]["tokens"] == arms["e"]["tokens"] == once + 2 * (prompts + gated)
    assert arms["d"]["patches"] == 3 * 2 * patches
    one_each = {i + j for i in lengths[:2] for j in lengths[4:6]}
    assert arms["f"]["tokens"] in {once + 2 * (prompts + n) for n in one_each}
    assert arms["f+"]["tokens"] == arms["f"]["tokens"]
    assert arms["d-reuse_proximal"]["tokens"] == arms["d"]["tokens"] + once
    assert arms["d-gate_first"]["tokens"] == 3 * once
    assert arms["d-share_images"]["patches"] == (8 + 4 + 4) * patches


@pytest.mark.slow
def test_operations_are_ordered(arms):
    flops = {letter: arm["flops"] for letter, arm in arms.items()}
    assert flops["c"] < flops["f+"] < flops["f"] < flops["d+"] < flops["d"]
    assert flops["c"] < flops["e"] < flops["d"] < flops["a*"] < flops["a"] < flops["b"]
    assert flops["d"] < flops["d-gate_first"] < flops["d-all"] < flops["b"]
    memory = {letter: arm["peak_memory_bytes"] for letter, arm in arms.items()}
    assert memory["d"] < memory["d+"]
    assert memory["c"] < memory["d"] < memory["d-all"] < memory["b"]


@pytest.mark.slow
def test_a_sweep_and_its_picture(tmp_path, capsys):
    target = tmp_path / "sweep.json"
    status = main(
        [
            *("bench", "train-step", "--quick", "--sweep", "positive"),
            *("--json", str(target), "--plots", str(tmp_path / "plots")),
        ]
    )
    assert status == 0
    sweep = json.loads(target.read_text())["sweep"]
    assert sweep["knob"] == "positive"
    assert [point["workload"]["positive"] for point in sweep["points"]] == [0, 0.125]
    none, one = (
        {arm["letter"]: arm for arm in point["arms"]} for point in sweep["points"]
    )
    assert list(none) == ["a", "c", "d"]
    assert none["d"]["tokens"] == none["c"]["tokens"]  # no gated response, no view
    assert none["d"]["flops"] == none["c"]["flops"]
    assert one["d"]["tokens"] > one["c"]["tokens"]
    picture = (tmp_path / "plots" / "sweep.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert "--positive 0.125" in capsys.readouterr().out


def measured(letters: str, seconds: dict[str, list[float]]) -> list[Measured]:
    return [
        Measured(arm, Counts(10 * (i + 1), 4, 0, 6), seconds[arm.letter])
        for i, arm in enumerate(select_arms(letters))
    ]


def test_a_ratio_is_the_median_of_each_repeats_own():
    results = measured("a,d", {"a": [1.0, 10.0, 2.0], "d": [3.0, 10.0, 4.0]})
    ratios = describe_ratios(results)
    assert ratios["cppo_over_stock_grpo"] == statistics.median([3, 1, 2])
    assert ratios["flops_cppo_over_stock_grpo"] == 2
    assert ratios["peak_memory_cppo_over_stock_grpo"] == 1
    assert ratios["cppo_over_published_cppo"] is None  # (b) was not measured
    arms = describe_arms(results, peak_tflops=1e-12)
    assert arms[0]["peak_share"] == 5  # 10 operations in 2 seconds, 1 a second
    assert arms[1]["ratios"]["patches"] is None
    lines = arms_table(arms).splitlines()
    assert len(lines) == 3 and len({len(line) for line in lines}) == 1
    assert "4.00 (3.00-10.00)  x2.00" in lines[2]


@pytest.mark.parametrize("stage", ["counting", "timing", "cut-off repeat"])
def test_ctrl_c_keeps_what_was_measured(tmp_path, monkeypatch, capsys, stage):
    seconds = {
        "counting": {"a": [], "d": []},
        "timing": {"a": [1.0], "d": [2.0]},
        "cut-off repeat": {"a": [1.0, 5.0], "d": [2.0]},
    }[stage]

    def interrupted(arms, workload, folder, config, repeats, note, results):
        results += measured("a,d", seconds)
        raise KeyboardInterrupt

    monkeypatch.setattr(train_step, "measure", interrupted)
    target = tmp_path / "numbers.json"
    arguments = ["--quick", "--arms", "a,d", "--json", str(target)]
    assert main(["bench", "train-step", *arguments]) == 130
    document = json.loads(target.read_text())
    assert document["complete"] is False
    assert [arm["flops"] for arm in document["arms"]] == [10, 20]
    expected = None if stage == "counting" else 2
    assert document["ratios"]["cppo_over_stock_grpo"] == expected
    shown = capsys.readouterr()
    assert "ours, CPPO" in shown.out and "what was measured is kept" in shown.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--image", "450"], "--image: expected a multiple of 28"),
        (["--positive", "2"], "--positive: expected a number in [0, 1]"),
        (["--group", "0"], "--group: expected an integer >= 1"),
        (
            ["--arms", "a,z"],
            "--arms: expected some of a, a*, b, c, d, e, f, d+, f+, d",
        ),
        (["--arms", "a", "--sweep", "image"], "--arms: expected none with --sweep"),
        (["--model", "huge"], "--model: expected one of tiny, small"),
        (["--repeats", "0"], "--repeats: expected a number >= 1, found 0"),
        (["--threads", "-1"], "--threads: expected a number >= 1, found -1"),
        (["--peak-tflops", "0"], "--peak-tflops: expected a number > 0"),
        (["--plots", "here"], "--plots: expected --json FILE beside it"),
        (["--json", "/proc/none/x.json"], "--json: expected a file that can be"),
        pytest.param(
            ["--gpu"],
            "--gpu: expected a CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
        (["--sweep", "positive", "--group", "2"], "--positive: expected at most 0.5"),
    ],
)
def test_mistakes(arguments, words, capsys):
    assert main(["bench", "train-step", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"areal-cppo bench: {words}")


def test_a_mistake_is_told_before_torch_is_imported(tmp_path):
    """By each command of bench, in a process of its own: it takes a second, no more."""
    rollout = "rollout --prompt-tokens 1 --response-tokens 1 --requests 1"
    commands = [
        "train-step --image 450",
        "train-step --arms z",
        "train-step --model nowhere",
        "plot nowhere -o pictures",
        "async --run nowhere",
        "async --config nowhere.yaml",
        "predict nowhere",
        f"{rollout} --concurrency 1 --model nowhere",
        f"{rollout} --concurrency 2 --model nowhere",
    ]
    program = (
        "import sys\n"
        "from areal_cppo.cli.main import main\n"
        "for command in sys.argv[1:]:\n"
        "    assert main(['bench', *command.split()]) == 2\n"
        "    assert 'torch' not in sys.modules\n"
    )
    run = [sys.executable, "-c", program, *commands]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == len(commands)


def test_ablations_are_those_of_the_settings():
    assert list(SWITCHES) == [field.name for field in fields(SpeedConfig)]


def document() -> dict:
    seconds = {"a": [2.0, 4.0], "c": [1.0, 2.0], "d": [1.5, 4.0]}
    results = measured("a,c,d", seconds)
    return {"arms": describe_arms(results), "ratios": describe_ratios(results)}


def test_pictures(tmp_path):
    run = document()
    points = []
    for positive in (0, 4):
        workload = {"positive_responses": positive, "samples": 8, "image": 56}
        points.append(deepcopy(run) | {"workload": workload})
    cut_off = deepcopy(points[0])
    for arm in cut_off["arms"]:
        arm["seconds"]["all"] = []
    files = {
        "arms.json": run,
        "no-stock.json": {"arms": run["arms"][1:]},
        "positive.json": {"sweep": {"knob": "positive", "points": points}},
        "image.json": {"sweep": {"knob": "image", "points": [*points, cut_off]}},
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    names = [str(tmp_path / name) for name in files]
    assert main(["bench", "plot", *names, "-o", str(tmp_path / "plots")]) == 0
    pictures = sorted((tmp_path / "plots").iterdir())
    assert [p.stem for p in pictures] == ["arms", "image", "no-stock", "positive"]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in pictures)


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"arms": []}'])
def test_what_cannot_be_drawn(tmp_path, capsys, content):
    path = tmp_path / "file.json"
    if content is not None:
        path.write_text(content)
    assert main(["bench", "plot", str(path), "-o", str(tmp_path / "plots")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected a file that areal-cppo bench train-step --json wrote" in line
