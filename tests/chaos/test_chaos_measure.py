"""What the chaos suite would notice, on files written by hand; and its table."""

from __future__ import annotations

import json
import random
import socket
import time
import urllib.request

import pytest
from PIL import Image

from areal_cppo.data.images import BrokenImage, MissingImage, load_image
from areal_cppo.errors import UserError
from areal_cppo.rollout.servers.client import nonsense
from tests.chaos import table
from tests.chaos.__main__ import plan
from tests.chaos.data_session import DATA_FAULTS
from tests.chaos.faults import FAULTS
from tests.chaos.impostor import NONSENSE, Impostor
from tests.chaos.measure import Progress, Record, ledger_errors, metrics_errors
from tests.chaos.problems import BREAKAGES, break_image, image_file, write_problems
from tests.chaos.session import _FOR_EVER
from tests.chaos.stack import PROBLEMS, Stack


@pytest.fixture
def stack(tmp_path):
    stack = Stack(tmp_path, tmp_path / "problems.jsonl", _FOR_EVER)
    stack.run.mkdir()
    return stack


def write(stack: Stack, name: str, lines: list[dict]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (stack.run / name).write_text(text + '{"torn')


def write_ledger(stack: Stack, prompts: list[list[int]]) -> None:
    steps = [prompts[i : i + 4] for i in range(0, len(prompts), 4)]
    lines = [{"step": i + 1, "prompts": step} for i, step in enumerate(steps)]
    write(stack, "ledger.jsonl", lines)


def test_a_whole_ledger_has_no_error(stack):
    write_ledger(stack, [[e, i] for e in range(4) for i in range(PROBLEMS)])
    assert ledger_errors(stack) == (0, 0)


def test_prompts_trained_twice_and_never_are_counted(stack):
    whole = [[e, i] for e in range(4) for i in range(PROBLEMS)]
    whole.remove([1, 7])
    whole.remove([3, 8])  # under way, when the run ended
    write_ledger(stack, [*whole, [0, 3], [0, 3]])
    assert ledger_errors(stack) == (2, 1)
    assert ledger_errors(stack, unusable={7}) == (2, 0)


@pytest.mark.parametrize(
    ("steps", "trained", "wrong"),
    [
        ([1, 2, 3], [1, 2, 3], 0),
        ([1, 3], [1, 3], 1),
        ([1, 2, 2, 3], [1, 2, 2, 3], 1),
        ([1, 2, 3], [1, 2], 1),
    ],
)
def test_gaps_repeats_and_disagreement_are_seen(stack, steps, trained, wrong):
    write(stack, "metrics.jsonl", [{"step": s, "time": 0.0} for s in steps])
    write(stack, "ledger.jsonl", [{"step": s, "prompts": []} for s in trained])
    assert len(metrics_errors(stack)) == wrong


def test_progress_knows_when_a_run_went_on_and_where(stack):
    now = time.time()
    write(stack, "metrics.jsonl", [{"step": s, "time": now + s} for s in (1, 2, 3)])
    progress = Progress(stack)
    assert progress.look() == progress.best == 3
    assert progress.first_after(now + 1.5) == now + 2
    assert progress.resumed(now) is None
    events = [
        {"event": "run_started", "time": now + 4, "run_id": "a"},
        {"event": "resumed", "time": now + 5, "step": 2},
    ]
    write(stack, "events.jsonl", events)
    write(stack, "metrics.jsonl", [{"step": s, "time": now + s} for s in (1, 2)])
    assert progress.resumed(now) == 2 and progress.look() == 2
    assert progress.best == 3  # one finished step was lost
    assert progress.resumed(now + 6) is None


@pytest.mark.parametrize("how", BREAKAGES)
def test_a_broken_picture_is_broken(tmp_path, how):
    write_problems(tmp_path, 1, 0, {0: "crash"})
    file = image_file(tmp_path, 0)
    assert isinstance(load_image(file), Image.Image)
    break_image(file, how, random.Random(0))
    with pytest.raises((MissingImage, BrokenImage)):
        load_image(file)


def test_the_impostor_answers_nothing_usable(free_port):
    impostor = Impostor(free_port, random.Random(0))
    url = f"http://127.0.0.1:{free_port}/generate"
    for _ in NONSENSE:
        try:
            with urllib.request.urlopen(url, b"{}", timeout=30) as answer:
                assert nonsense(json.loads(answer.read()), 100, 44) is not None
        except (OSError, ValueError):  # a status, a closed connection, no JSON
            continue
    assert impostor.answered == len(NONSENSE)
    impostor.leave()
    with pytest.raises(OSError):
        urllib.request.urlopen(url, b"{}", timeout=5)


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_the_suite_has_thirty_faults_of_ten_kinds():
    names = [*FAULTS, "disk-full", *DATA_FAULTS]
    sessions = plan(names, 2, False, random.Random(1))
    faults = [fault for _, _, part in sessions for fault in part]
    assert len(faults) >= 30 and len(set(faults)) >= 10
    assert sessions == plan(names, 2, False, random.Random(1))  # the seed decides
    (together,) = plan(["server-kill", "requeue"], 1, True, random.Random(1))
    assert together[2] == ["server-kill", "requeue"]


def test_the_table_replaces_what_is_between_its_markers():
    good = Record("server-kill", "", 3, 2.25, 40.0, 0, None, 0, 0, True, 0, 0)
    bad = Record("preempt", "", 5, 60.0, None, 1, 75, 1, 0, False, 0, 0)
    bad.problems.append("1 prompts trained twice, 0 never")
    result = {
        "seed": 4,
        "rounds": 1,
        "machine": "2 cores",
        "sessions": [{"seconds": 90.0}],
        "faults": [good.to_json(), bad.to_json()],
    }
    text = table.table(result)
    rows = text.splitlines()
    assert (
        rows[2].startswith("| SIGKILL of a server | 1 | goes on")
        and "| 2 | 40 |" in rows[2]
    )
    assert "ends with 75" in rows[3] and rows[3].endswith("| no | 0 | 0 of 1 |")
    assert "2 faults of 2 kinds in 1 runs, 1 held; seed 4" in rows[-1]
    document = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"
    new = table.replace(document, text)
    assert text in new and "old" not in new
    assert new.startswith("before\n") and new.endswith("\nafter\n")
    with pytest.raises(UserError, match="markers"):
        table.replace("no markers", text)


def test_every_kind_has_a_title():
    for kind in (*FAULTS, "disk-full", *DATA_FAULTS):
        assert table.title(kind)
