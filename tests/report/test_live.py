"""The terminal display: plain lines, and the live table through a pty."""

import io
import logging
import os
import pty
import re
import subprocess
import sys
import threading

import pytest
from rich.console import Console

from areal_cppo.report.live import LiveTable, clock, is_plain, live_display

PROGRAM = """
import logging, sys, time
from areal_cppo.report.live import live_display
logging.basicConfig(stream=sys.stderr)
with live_display(12, "cppo") as live:
    live.note("server is [ready]")
    live.evaluation(0, 0.25, 100)
    for step in range(1, 13):
        logging.warning("a log line of step %d", step)
        live.step({"step": step, "seconds": 2.0 * step, "reward": 0.5})
"""


def metrics(step: int) -> dict:
    return {
        "step": step,
        "seconds": 7.25 * step,
        "reward": 0.6123,
        "accuracy": 0.5717,
        "cpl_loss": 0.6931,
        "cpl_selected_per_response": 9.64,
        "staleness_mean": 0.98,
        "staleness_max": 2,
        "refused": {"vision_token": 3, "reward_error": 4, "group_dropped": 1},
        "tokens_per_second": 641.3,
    }


def plain(total: int | None, steps: int) -> list[str]:
    stream = io.StringIO()
    with live_display(total, "cppo", stream) as live:
        for step in range(1, steps + 1):
            live.step(metrics(step))
    return stream.getvalue().splitlines()


def test_plain_lines():
    assert plain(60, 2) == [
        "cppo: 60 training steps",
        " step  reward  accuracy  held-out     CPL  selected  staleness  refused"
        "  tokens/s      time",
        " 1/60   0.612     0.572         -   0.693       9.6     0.98/2        7"
        "       641      0:07",
        " 2/60   0.612     0.572         -   0.693       9.6     0.98/2        7"
        "       641      0:14",
    ]


def test_plain_lines_are_aligned_narrow_and_free_of_control_characters():
    lines = plain(10_000, 45)
    assert sum("reward" in line for line in lines) == 3
    assert {len(line) for line in lines[1:]} == {len(lines[1])}
    assert len(lines[1]) <= 100
    assert all(line.isprintable() for line in lines)


def test_unknown_number_of_steps():
    lines = plain(None, 2)
    assert lines[0] == "cppo: training steps"
    assert lines[3].startswith("     2   0.612")
    stream = io.StringIO()
    console = Console(file=stream, width=100, force_terminal=True)
    table = LiveTable(None, "cppo", console)
    table.step(metrics(1))
    table.step(metrics(2))
    console.print(table.render())
    assert "step 2 " in stream.getvalue()
    assert table.remaining() is None


def test_plain_evaluation_and_note():
    stream = io.StringIO()
    with live_display(3, "grpo", stream) as live:
        live.evaluation(0, 0.8, 10)
        live.evaluation(3, 0.9, 10)
        live.note("a\x1b[31m b")
        live.step({"step": 1, "seconds": 1.0})
    lines = stream.getvalue().splitlines()
    assert lines[1] == (
        "held-out accuracy before training: 80.0 % of 10 images "
        "(95 % interval 49.0 to 94.3)"
    )
    assert "after step 3" in lines[2]
    assert lines[3] == "a[31m b"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "settings", "expected"),
    [
        (Terminal(), {"TERM": "xterm"}, False),
        (Terminal(), {"TERM": "dumb"}, True),
        (Terminal(), {}, True),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}, True),
        (io.StringIO(), {"TERM": "xterm"}, True),
    ],
)
def test_which_display(monkeypatch, stream, settings, expected):
    for name in ("TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert is_plain(stream) is expected


@pytest.mark.parametrize("width", [60, 80, 90, 100, 120])
def test_table_fits_the_terminal(width):
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=True, color_system=None)
    table = LiveTable(40, "cppo", console)
    console.print(table.render())
    for step in range(1, 13):
        table.step(metrics(step))
    console.print(table.render())
    lines = stream.getvalue().splitlines()
    shown = [line for line in lines if "0.612" in line]
    assert [int(line.split()[0]) for line in shown] == list(range(5, 13))
    assert all(len(line.rstrip()) <= width for line in lines)
    assert not any("…" in line for line in lines)


def test_remaining_time_follows_the_pace_since_the_first_step():
    table = LiveTable(10, "cppo", Console(file=io.StringIO()))
    table.step({"step": 1, "seconds": 50.0})  # includes the start-up
    assert table.remaining() is None
    table.step({"step": 3, "seconds": 54.0})
    assert table.remaining() == pytest.approx(2.0 * 7)


def test_stops_on_an_exception(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    before = sys.stderr
    with pytest.raises(KeyboardInterrupt):
        with live_display(3, "cppo", Terminal()) as live:
            live.step(metrics(1))
            logging.getLogger("areal").warning("beside it")
            raise KeyboardInterrupt
    assert sys.stderr is before


def run_in_a_terminal(**settings: str) -> str:
    ours, theirs = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS")}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=env | {"TERM": "xterm", "PYTHONPATH": os.pathsep.join(sys.path)} | settings,
    )
    os.close(theirs)
    watchdog = threading.Timer(20, process.kill)
    watchdog.start()
    output = b""
    try:
        while chunk := os.read(ours, 65536):
            output += chunk
    except OSError:  # Linux's end of file on a pty
        pass
    watchdog.cancel()
    os.close(ours)
    assert process.wait() == 0
    return output.decode()


def test_on_a_terminal():
    output = run_in_a_terminal()
    assert "\x1b[" in output
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)
    assert "server is [ready]" in text
    assert "a log line of step 12" in text
    assert "step 12 of 12" in text
    assert output.rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_on_a_terminal_without_colour():
    output = run_in_a_terminal(NO_COLOR="1")
    assert "\x1b" not in output
    assert "12/12" in output


def test_clock():
    assert [clock(s) for s in (None, 0, 59.6, 3599, 3600)] == [
        "-",
        "0:00",
        "1:00",
        "59:59",
        "1:00:00",
    ]


def test_imports_no_heavy_package():
    code = "import sys, areal_cppo.report.live as _; print(*sys.modules)"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, check=True
    ).stdout.decode()
    assert not {"matplotlib", "torch", "numpy"} & set(output.split())
