"""`areal-cppo bench rollout` against a scripted server: counts, weight updates, Ctrl-C.

Not covered here: how fast SGLang is. One test starts it (`slow`, `sglang`).
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from areal_cppo.bench import rollout
from areal_cppo.bench.rollout_prompts import PromptMaker, Shape
from areal_cppo.bench.rollout_results import Answer, Point, points_table
from areal_cppo.cli.main import main
from areal_cppo.tasks.problems import TRIANGLES
from tests.bench.rollout_server import TOKEN, PausableServer

MODEL = str(TRIANGLES.checkpoint)
SHAPE = ("--prompt-tokens", "6", "--response-tokens", "8")


def bench(server: PausableServer, *arguments: str) -> int:
    return main(
        ["bench", "rollout", "--server", server.address, "--model", MODEL]
        + [*SHAPE, *arguments]
    )


def test_numbers_of_two_concurrencies(tmp_path, capsys):
    target, picture = tmp_path / "new" / "numbers.json", tmp_path / "picture.png"
    with PausableServer(seconds=0.1) as server:
        status = bench(
            server,
            *("--concurrency", "1,4", "--requests", "8"),
            *("--json", str(target), "--plot", str(picture)),
        )
    assert status == 0
    document = json.loads(target.read_text())
    assert document["complete"] is True and document["kind"] == "rollout"
    assert document["workload"]["prompt_tokens_with_image"] == 6
    assert document["versions"]["areal"] and document["command"]
    one, four = document["points"]
    assert [one["concurrency"], four["concurrency"]] == [1, 4]
    for point in (one, four):
        assert point["complete"] and point["requests"] == 8
        assert point["tokens"] == 64  # the end of sequence is ignored
        assert point["latency_seconds"]["p50"] >= 0.1
        assert point["latency_seconds"]["p99"] >= point["latency_seconds"]["p50"]
        assert point["first_token_seconds"]["p50"] == pytest.approx(0.01, abs=1e-3)
        assert point["interrupted"] == point["failed"] == point["refused"] == 0
        rate = point["tokens"] / point["seconds"]
        assert point["tokens_per_second"] == pytest.approx(rate)
    assert one["seconds"] >= 0.8 > 0.2 <= four["seconds"] < one["seconds"]
    assert len(server.requests) == 1 + 8 + 4 + 8  # with those of the warm-up
    for request in server.requests:
        assert request["return_logprob"] is True
        assert request["sampling_params"]["ignore_eos"] is True
        assert request["sampling_params"]["max_new_tokens"] == 8
        assert len(request["input_ids"]) == 6
    different = {tuple(request["input_ids"]) for request in server.requests}
    assert len(different) == len(server.requests)
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr()
    assert "latency p50" in shown.out and "concurrency 4: 8 of 8" in shown.err


def test_a_weight_update_in_the_middle(tmp_path, capsys):
    """With four requests open the pause meets up to four; each comes back with what it
    had and is asked for the rest."""
    target = tmp_path / "numbers.json"
    with PausableServer(seconds=0.2) as server:
        status = bench(
            server,
            *("--concurrency", "4", "--requests", "12", "--warmup", "0"),
            *("--weight-update", MODEL, "--json", str(target)),
        )
    assert status == 0
    kept, updated = json.loads(target.read_text())["points"]
    assert (kept["weight_update"], updated["weight_update"]) == (False, True)
    assert kept["interrupted"] == 0 and kept["update_seconds"] is None
    assert 1 <= updated["interrupted"] <= 4
    assert updated["update_seconds"] > 0
    assert updated["requests"] == 12 and updated["tokens"] == 12 * 8
    assert server.paths == [
        "/abort_request",
        "/pause_generation",
        "/update_weights_from_disk",
        "/continue_generation",
    ]
    again = [r for r in server.requests if len(r["input_ids"]) > 6]
    assert len(again) == updated["interrupted"]
    for request in again:
        assert request["input_ids"][6:] == [TOKEN] * 4
        assert request["sampling_params"]["max_new_tokens"] == 4
    assert "updated in" in capsys.readouterr().out


def test_a_server_without_metrics_tells_no_first_token(capsys):
    with PausableServer(metrics=False) as server:
        assert bench(server, "--concurrency", "1", "--requests", "1") == 0
    shown = capsys.readouterr()
    assert "--enable-metrics" in shown.err and " - " in shown.out


def test_the_model_is_where_the_server_says():
    with PausableServer(model=MODEL) as server:
        arguments = ["--server", server.address, *SHAPE]
        arguments += ["--concurrency", "1", "--requests", "1"]
        assert main(["bench", "rollout", *arguments]) == 0
        assert len(server.requests) == 2


def test_a_server_that_asks_for_a_token(tmp_path):
    file = tmp_path / "token"
    file.write_text("secret\n")
    with PausableServer(model=MODEL) as server:
        arguments = ["--server", server.address, "--token-file", str(file), *SHAPE]
        arguments += ["--concurrency", "1", "--requests", "2"]
        arguments += ["--weight-update", MODEL]
        assert main(["bench", "rollout", *arguments]) == 0
        assert server.tokens == {"Bearer secret"}


def test_images_and_groups():
    """An image of 56 pixels is 4 tokens between its two marks; a group shares it."""
    make_prompt = PromptMaker(MODEL, Shape(5, 3, image_size=56, group=2))
    one, other = make_prompt(), make_prompt()
    assert len(one.input_ids) == 4 + 2 + 5 and len(one.images) == 1
    assert one.images != other.images and one.input_ids != other.input_ids
    with PausableServer() as server:
        bench(server, "--image-size", "56", "--group", "2", "--concurrency", "2",
              "--requests", "4", "--warmup", "0")  # fmt: skip
        pictures = [request["image_data"][0] for request in server.requests]
        assert len(set(pictures)) == 2


def test_ctrl_c_keeps_what_was_measured(tmp_path, capsys, monkeypatch):
    target = tmp_path / "numbers.json"
    run = rollout.RolloutBench._run

    async def interrupted(self, point):
        if point.concurrency < 2:
            await run(self, point)
            return
        point.answers.append(Answer(0.5, 8, False, None))
        point.seconds = 0.5
        raise KeyboardInterrupt

    monkeypatch.setattr(rollout.RolloutBench, "_run", interrupted)
    with PausableServer() as server:
        status = bench(
            server,
            *("--concurrency", "1,2", "--requests", "2", "--warmup", "0"),
            *("--json", str(target)),
        )
    assert status == 130
    document = json.loads(target.read_text())
    assert document["complete"] is False
    assert [point["complete"] for point in document["points"]] == [True, False]
    assert document["points"][1]["tokens_per_second"] == 16
    shown = capsys.readouterr()
    assert "2 (cut off)" in shown.out and "what was measured is kept" in shown.err


@pytest.mark.slow
def test_a_real_ctrl_c(tmp_path):
    """In the middle of the second concurrency."""
    target = tmp_path / "numbers.json"
    with PausableServer(seconds=0.15, model=MODEL) as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "areal_cppo", "bench", "rollout", *SHAPE]
            + ["--server", server.address, "--concurrency", "2,1", "--warmup", "0"]
            + ["--requests", "60", "--json", str(target)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for line in process.stderr:
            if line.startswith("concurrency 1:"):
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        said = process.stderr.read()
    assert "interrupted; what was measured is kept" in said and "Traceback" not in said
    two, one = json.loads(target.read_text())["points"]
    assert two["complete"] and two["requests"] == 60
    assert not one["complete"] and 0 < one["requests"] < 60


def test_percentiles_by_hand():
    point = Point(2, 5, False, seconds=4.0)
    point.answers = [Answer(s, 10, s > 2, None) for s in (1.0, 2.0, 2.0, 3.0, 4.0)]
    described = point.describe()
    assert described["latency_seconds"]["mean"] == pytest.approx(2.4)
    assert described["latency_seconds"]["p50"] == 2
    assert described["latency_seconds"]["p90"] == pytest.approx(3.6)
    assert described["tokens_per_second"] == 12.5
    assert described["requests_per_second"] == 1.25
    assert described["mean_in_flight"] == 3
    assert described["interrupted"] == 2
    assert described["first_token_seconds"] is None
    lines = points_table([described]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert Point(1, 1, False).describe()["latency_seconds"] is None


def test_a_server_that_fails_every_request(capsys):
    with PausableServer(status=400) as server:
        assert bench(server, "--concurrency", "1", "--requests", "1") == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "expected" in x]
    assert "every request fails" in line and "status 400" in line


def test_weights_that_are_refused(capsys):
    with PausableServer(loads=False, seconds=0.02) as server:
        arguments = ["--concurrency", "1", "--requests", "4", "--weight-update", MODEL]
        assert bench(server, *arguments) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "expected" in x]
    assert "refuses: no such weights" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompt-tokens", "0"], "--prompt-tokens: expected an integer >= 1"),
        (["--response-tokens", "-3"], "--response-tokens: expected an integer >= 1"),
        (["--image-size", "-1"], "--image-size: expected an integer >= 0, found -1"),
        (["--concurrency", "4,x"], "--concurrency: expected different integers >= 1"),
        (["--concurrency", "0"], "--concurrency: expected different integers >= 1"),
        (["--concurrency", "16"], "--requests: expected at least the largest"),
        (["--warmup", "-1"], "--warmup: expected a number >= 0"),
        (["--timeout", "0"], "--timeout: expected a number >= 1"),
        (["--token-file", "/nowhere"], "--token-file: expected a file with the token"),
        (["--slots", "8"], "--slots: expected only with --model"),
        (["--json", "/proc/none/x.json"], "--json: expected a file that can be"),
        (["--plot", "picture.txt"], "--plot: expected a name that ends in .png"),
        (["--weight-update", "/nowhere"], "--weight-update: expected a model folder"),
        ([], "--server: expected a running server such as"),
    ],
)
def test_mistakes(arguments, words, capsys):
    usual = ["--concurrency", "1", "--requests", "4", "--server", "http://127.0.0.1:9"]
    assert main(["bench", "rollout", *SHAPE, *usual, *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and len(line) < 300


def test_neither_server_nor_model(capsys):
    arguments = [*SHAPE, "--concurrency", "1", "--requests", "1"]
    assert main(["bench", "rollout", *arguments]) == 2
    assert "found neither" in capsys.readouterr().err


def test_a_server_whose_model_is_elsewhere(capsys):
    with PausableServer(model="/nowhere/model") as server:
        arguments = ["--server", server.address, *SHAPE]
        arguments += ["--concurrency", "1", "--requests", "1"]
        assert main(["bench", "rollout", *arguments]) == 2
    assert "found /nowhere/model; give it" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.sglang
def test_sglang_itself(tmp_path):
    target = tmp_path / "numbers.json"
    status = main(
        ["bench", "rollout", "--model", MODEL, "--prompt-tokens", "9"]
        + ["--response-tokens", "44", "--image-size", "56", "--concurrency", "1,8"]
        + ["--requests", "16", "--weight-update", MODEL, "--json", str(target)]
    )
    assert status == 0
    points = json.loads(target.read_text())["points"]
    assert [p["weight_update"] for p in points] == [False, True, False, True]
    for point in points:
        assert point["complete"] and point["resent"] == point["failed"] == 0
        assert point["requests"] + point["refused"] == 16
        assert point["first_token_seconds"]["p50"] > 0
    assert points[3]["interrupted"] > 0
    assert all(point["tokens_per_second"] > 0 for point in points)
