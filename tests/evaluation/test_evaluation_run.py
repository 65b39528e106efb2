"""An evaluation against a fake server: what is asked, counted, kept and gone on with.

The real server is in test_evaluation_sglang.py, real data in test_evaluation_data.py.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from io import BytesIO

import pytest
from PIL import Image

from areal_cppo.cli.common import config_file
from areal_cppo.errors import RunError, UserError
from areal_cppo.evaluation.folder import EvaluationFolder
from areal_cppo.evaluation.summary import GREEDY
from areal_cppo.tasks.problems import TRIANGLES
from areal_cppo.tasks.responses import EOS
from areal_cppo.tasks.tokenizer import PROMPT_IDS
from tests.evaluation.scripted_server import FakeServer, in_sglangs_format


def right(answer: int) -> str:
    return f"<think>1+1=2</think>\\boxed{{{answer}}}{EOS}"


def test_what_is_asked(evaluate, known):
    """The prompt and the picture as in training; once greedily, k times as sampled."""
    with FakeServer(lambda payload: right(known(payload).answer)) as server:
        evaluate(server, "gconfig.temperature=0.7", k=3, limit=2)
    assert len(server.requests) == 2 * (1 + 3)
    for payload in server.requests:
        assert payload["input_ids"] == list(PROMPT_IDS)
        picture = Image.open(BytesIO(base64.b64decode(payload["image_data"][0])))
        problem = TRIANGLES.make_problem(0, known(payload).index, "held_out")
        assert picture.tobytes() == problem.image.tobytes()
        sampling = payload["sampling_params"]
        assert sampling["max_new_tokens"] == 44
        assert 1 in sampling["stop_token_ids"]  # <eos>
    temperatures = [p["sampling_params"]["temperature"] for p in server.requests]
    assert sorted(temperatures) == [0.0] * 2 + [0.7] * 6


def test_numbers_and_records(evaluate, known):
    """Greedy is right for even problems, samples for the first; the last is cut off."""

    def answer(payload):
        index, answer, greedy = known(payload)
        if index == 3 and greedy:
            return 200, in_sglangs_format("<think>1+1", "length")
        good = index % 2 == 0 if greedy else index == 0
        return right(answer) if good else f"\\boxed{{{answer + 1}}}{EOS}"

    with FakeServer(answer) as server:
        result, folder = evaluate(server, k=2, limit=4)
    assert result["finished"] and result["problems"] == 4 and result["k"] == 2
    assert result["greedy"]["accuracy"] == 0.5
    assert result["greedy"]["cut_off"] == 0.25
    assert result["average_at_k"]["accuracy"] == 0.25
    assert result["average_at_k"]["format"] == 0.25
    assert result["refused"] == {} and result["bad_rows"] == {}
    assert json.loads(folder.evaluation.read_text()) == result
    records = [json.loads(line) for line in folder.responses.open()]
    assert len(records) == 12
    cut = next(r for r in records if r["finish_reason"] == "length")
    assert cut["index"] == 3 and cut["query_id"] == "held_out-0-3"
    assert cut["extracted"] is None and cut["correct"] is False
    assert cut["response"] == "<think>1+1" and cut["tokens"] == 4
    one = next(r for r in records if (r["index"], r["sample"]) == (0, 1))
    truth = str(TRIANGLES.make_problem(0, 0, "held_out").answer)
    assert one["extracted"] == one["answer"] == truth
    assert one["prompt_tokens"] == len(PROMPT_IDS) and one["seconds"] >= 0


def test_a_right_answer_in_another_format_is_right(evaluate, known):
    def answer(payload):
        return f"?\\boxed{{{known(payload).answer}}}{EOS}"

    with FakeServer(answer) as server:
        result, _ = evaluate(server, k=0)
    assert result["greedy"]["accuracy"] == 1 and result["greedy"]["format"] == 0
    assert result["average_at_k"] is None


def test_requests_are_concurrent_and_bounded(evaluate, known):
    def answer(payload):
        return right(known(payload).answer)

    with FakeServer(answer, seconds=0.05) as server:
        evaluate(server, "sglang.max_running_requests=6", k=3, limit=16)
    assert server.most_at_once == 6


def test_going_on_asks_only_what_is_missing(evaluate, known):
    with FakeServer(lambda payload: right(known(payload).answer)) as server:
        evaluate(server, k=1, limit=3)
        assert len(server.requests) == 6
        evaluate(server, k=1, limit=3)
        assert len(server.requests) == 6
        result, _ = evaluate(server, k=2, limit=4)  # a sample and a problem more
        assert len(server.requests) == 4 * 3
        assert result["average_at_k"]["responses"] == 8
        result, _ = evaluate(server, k=1, limit=2)  # fewer: of what is there
        assert len(server.requests) == 4 * 3
        assert result["greedy"]["n"] == result["average_at_k"]["responses"] == 2


def test_a_line_that_was_cut_off_is_asked_again(evaluate, known):
    with FakeServer(lambda payload: right(known(payload).answer)) as server:
        _, folder = evaluate(server, k=1, limit=3)
        content = folder.responses.read_bytes()
        folder.responses.write_bytes(content[:-10])
        _, folder = evaluate(server, k=1, limit=3)
        assert len(server.requests) == 7
    assert len([json.loads(line) for line in folder.responses.open()]) == 6


def test_other_settings_are_refused_by_name(evaluate, known):
    with FakeServer(lambda payload: right(known(payload).answer)) as server:
        evaluate(server)
        with pytest.raises(UserError) as error:
            evaluate(server, "gconfig.temperature=0.5")
    text = str(error.value)
    assert "generation.temperature 1.0 there, 0.5 here" in text and "\n" not in text


def test_other_weights_are_named_without_their_digests(tmp_path):
    EvaluationFolder(tmp_path / "out", {"weights": {"model.safetensors": "7 123"}})
    with pytest.raises(UserError, match="found other weights.model.safetensors; choo"):
        EvaluationFolder(tmp_path / "out", {"weights": {"model.safetensors": "7 124"}})


def test_a_folder_with_something_else_is_refused(evaluate, known, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with FakeServer(lambda payload: right(1)) as server:
        with pytest.raises(UserError, match="expected a new folder"):
            evaluate(server)


def test_a_request_that_fails_is_counted_left_out_and_asked_again(evaluate, known):
    failing = True

    def answer(payload):
        index, answer, _ = known(payload)
        if index == 1 and failing:
            return 400, {"error": {"message": "no, thank you"}}
        return right(answer)

    with FakeServer(answer) as server:
        result, folder = evaluate(server, k=1, limit=3)
        assert result["refused"] == {"request_failed": 2}
        assert result["greedy"]["n"] == 2 and result["greedy"]["accuracy"] == 1
        (note,) = evaluate.last.notes
        assert "refused a request: status 400" in note and "no, thank you" in note
        assert "image" not in note
        failing = False
        result, _ = evaluate(server, k=1, limit=3)
    assert result["refused"] == {} and result["greedy"]["n"] == 3


def test_an_aborted_response_is_no_response(evaluate, known):
    """Somebody paused the server: what there is of it says nothing of the model."""
    aborted = 200, in_sglangs_format("<think>", "abort")
    with FakeServer(lambda payload: aborted) as server:
        result, _ = evaluate(server, k=0)
    assert result["refused"] == {"aborted": 4} and result["greedy"] is None


def test_a_server_that_refuses_everything_ends_it(evaluate):
    with FakeServer(lambda payload: (400, "wrong model")) as server:
        with pytest.raises(RunError, match="refuses every request: .*wrong model"):
            evaluate(server, k=0, limit=20)


def test_a_server_that_dies_ends_it_and_keeps_what_was_measured(evaluate, known):
    def answer(payload):
        index, answer, _ = known(payload)
        return right(answer) if index < 2 else None

    with FakeServer(answer) as server:
        with pytest.raises(RunError, match="does not answer"):
            evaluate(server, "sglang.max_running_requests=1", k=0, limit=3)
        result = json.loads(evaluate.last.folder.evaluation.read_text())
    assert not result["finished"] and result["greedy"]["n"] == 2


def test_a_prompt_without_room_for_the_response_is_not_asked(evaluate, known):
    with FakeServer(lambda payload: right(known(payload).answer)) as server:
        result, _ = evaluate(server, "sglang.context_length=50", k=1, limit=2)
    assert server.requests == []
    assert result["refused"] == {"prompt_too_long": 4} and result["greedy"] is None


def start(server: FakeServer, out, *arguments: str) -> subprocess.Popen:
    """As in a shell's background, where SIGINT is ignored."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "areal_cppo", "eval", "--out", str(out)),
            *("--model", str(TRIANGLES.checkpoint), "--server", server.address),
            *("--config", str(config_file("triangles.yaml")), *arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )


@pytest.mark.slow
def test_a_reward_function_of_ones_own(evaluate, known, tmp_path):
    """What it says is kept, and with another one the evaluation is another."""
    file = tmp_path / "own.py"
    code = "def worth(completions, answer, values, **_):\n    return %s\n"
    file.write_text(
        code % "{'right': f'{{{answer}}}' in completions, 'n': len(values)}"
    )
    own = (f"reward.function='{file}:worth'", "reward.sees=[answer, values]")
    own += ("reward.weights={right: 2}",)

    def answer(payload):
        index, answer, _ = known(payload)
        return right(answer + index % 2)

    with FakeServer(answer) as server:
        result, folder = evaluate(server, *own, k=0, limit=4)
        file.write_text(code % "1")
        with pytest.raises(UserError, match="reward_file '"):
            evaluate(server, *own[:2], k=0, limit=4)
    greedy = result["greedy"]
    assert (greedy["accuracy"], greedy["reward"], greedy["format"]) == (0.5, 1.0, None)
    assert greedy["parts"] == {"right": 0.5, "n": 3.0}
    assert folder.records[0, GREEDY]["reward"] == 2.0
    assert "reward: for the true answer 2 (right 1, n 3), for" in evaluate.last.notes[0]


def test_sigterm_keeps_what_was_measured(known, tmp_path):
    """It is to the command as Ctrl-C, in a shell's background, too."""
    out = tmp_path / "an evaluation"

    def answer(payload):
        return right(known(payload).answer)

    settings = ("--k", "1", "--limit", "8", "sglang.max_running_requests=1")
    with FakeServer(answer, seconds=0.5) as server:
        process = start(server, out, *settings)
        while len(server.requests) < 4:
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
        asked = len(server.requests)
    assert process.returncode == 143
    assert "Traceback" not in errors and "interrupted; " in errors
    assert f"--out {out} goes on" in errors
    kept = len((out / "responses.jsonl").read_text().splitlines())
    assert kept >= 3
    assert not json.loads((out / "evaluation.json").read_text())["finished"]
    with FakeServer(answer) as server:
        process = start(server, out, *settings)
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert len(server.requests) == 16 - kept
        # Nothing is left to ask.
        again, errors = start(server, out, *settings).communicate(timeout=120)
        assert "no server is asked" in errors and again == output
        assert len(server.requests) == 16 - kept
    assert output.startswith("greedy: 100.0 % (95 %: 67.6 to 100.0), 8 problems")
    assert output.splitlines()[-1] == f"evaluation: {out}/evaluation.json"
    assert asked < 16
