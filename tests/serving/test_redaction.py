"""What must not be in a log: images, prompts, secrets. On AReaL's real worker.

Rewards are computed in processes of their own, whose errors name type and place only:
tests/rewards/test_pool.py. The workflow's own warnings: test_workflow.py.
"""

from __future__ import annotations

import json
import logging
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from areal.utils.image import image2base64

from areal_cppo.cluster.worker import AREAL_WORKER, WORKER
from areal_cppo.serving import redaction
from areal_cppo.serving.redaction import redact
from areal_cppo.tasks.problems import TRIANGLES
from tests.cluster.rpc_process import rpc_worker
from tests.scripted_server import ScriptedServer

IDS = list(range(1000, 1090))
PROMPT = "How long is the perimeter of this triangle?"
KEY = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def image() -> str:
    return image2base64([TRIANGLES.make_problem(0, 0, "train").image])[0]


def post(port: int, path: str, body: dict) -> str:
    """The answer of a worker, whatever its status."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()


def fail(module: str, folder: Path, image: str) -> tuple[str, str]:
    """Let a worker set a secret and fail on a request: its log, and its answers."""
    payload = {"input_ids": IDS, "image_data": [image], "text": PROMPT}
    with (
        ScriptedServer(lambda request: (500, {})) as server,
        rpc_worker(module, folder, "loopback") as (_, port),
    ):
        answers = post(port, "/set_env", {"env": {"WANDB_API_KEY": KEY}})
        engine = {
            "engine": "tests.rollout.leaking_engine.LeakingEngine",
            "engine_name": "rollout/0",
        }
        answers += post(port, "/create_engine", engine)
        call = {"method": "ask", "args": [server.address, payload]}
        answers += post(port, "/call", call | {"engine_name": "rollout/0"})
        assert server.requests == [payload]
    return (folder / "worker.log").read_text(), answers


def private(text: str, image: str) -> list[str]:
    """What of the things that must not be in a text is in it."""
    things = {
        "image": image[100:160],
        "prompt ids": str(IDS[10:20])[1:-1],
        "prompt": PROMPT,
        "secret": KEY,
    }
    return [name for name, thing in things.items() if thing in text]


@pytest.mark.slow
def test_a_failing_request_leaves_nothing_private_in_a_workers_log(tmp_path, image):
    log, answers = fail(WORKER, tmp_path, image)
    assert "Engine method 'ask' failed" in log and "500" in log
    assert "Payload: <withheld>" in log and "Payload: <withheld>" in answers
    assert "Updated 1 environment variables" in log
    assert private(log, image) == private(answers, image) == []


@pytest.mark.slow
def test_areals_own_worker_would_log_the_request(tmp_path, image):
    """Should this fail one day, the redaction may be needless."""
    log, _ = fail(AREAL_WORKER, tmp_path, image)
    assert private(log, image) == ["image", "prompt ids", "prompt"]


def test_redact(image, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", KEY)
    text = (
        f"sent {{'input_ids': {IDS}, 'messages': '{PROMPT}', 'rid': 7}} with {image}, "
        f"Bearer {KEY}, HF_TOKEN=abc OMP_NUM_THREADS=1"
    )
    clean = redact(text)
    assert private(clean, image) == []
    assert "'rid': 7" in clean and "HF_TOKEN=<withheld> OMP_NUM_THREADS=1" in clean
    for harmless in (
        "Starting worker actor/0 (attempt 1/5): python3 -m areal --port 13413",
        "/a/long/path/to/" + "folder/" * 20 + "model.safetensors",
        "loss 0.25 at step [1, 2, 3]",
        "-" * 300,
    ):
        assert redact(harmless) == harmless


def test_a_traceback_in_a_record_is_redacted(image):
    """`logger.error(..., exc_info=True)`, as AReaL logs a workflow's failure."""
    make = redaction._redacting(logging.LogRecord)
    try:
        raise RuntimeError(f"Payload: {{'image': '{image}'}}. Addr: x. Last error: y")
    except RuntimeError as error:
        info = (type(error), error, error.__traceback__)
        arguments = ("failed: %s", (error,), info)
    record = make("areal", logging.ERROR, "file", 1, *arguments)
    text = logging.Formatter().format(record)
    assert "Payload: <withheld>. Addr: x" in text and "Traceback" in text
    assert private(text, image) == []
