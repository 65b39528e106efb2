"""What a training run shows in the terminal while it goes on.

    with live_display(total_steps, objective) as live:
        live.note("generation server is ready")
        live.evaluation(0, accuracy, n)
        live.step(metrics)

On a terminal: a progress bar and a table of the last steps, redrawn in place.
Piped, with `NO_COLOR` or on a dumb terminal: a line a step and no control
characters. Other code may log to stderr in either case.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from areal_cppo.metrics import own_parts
from areal_cppo.report.confidence import wilson_interval

RECENT_STEPS = 8
HEADER_EVERY = 20  # lines of plain output
EVALUATED = "evaluated"  # the latest accuracy on problems not trained on
REFRESHES_PER_SECOND = 2  # the elapsed time moves; the controller stays idle


@dataclass(frozen=True)
class Column:
    """One column of both displays: `width` characters, shown from `min_terminal`."""

    title: str
    width: int
    value: Callable[[Mapping[str, Any]], str]
    min_terminal: int = 0


def _decimal(key: str, digits: int) -> Callable[[Mapping[str, Any]], str]:
    def value(metrics: Mapping[str, Any]) -> str:
        found = metrics.get(key)
        return "-" if found is None else f"{found:.{digits}f}"

    return value


def _staleness(metrics: Mapping[str, Any]) -> str:
    mean, largest = metrics.get("staleness_mean"), metrics.get("staleness_max")
    if mean is None:
        return "-"
    return f"{mean:.2f}" if largest is None else f"{mean:.2f}/{largest:.0f}"


_EVALUATIONS = {
    "heldout": ("held-out", "images"),
    "validation": ("validation", "problems"),
}


def _refused(metrics: Mapping[str, Any]) -> str:
    """Responses that were, since the start."""
    found = metrics.get("refused")
    if found is None:
        return "-"
    return str(sum(n for reason, n in found.items() if not reason.startswith("group_")))


COLUMNS = (
    Column("reward", 6, _decimal("reward", 3)),
    Column("accuracy", 8, _decimal("accuracy", 3)),
    Column("held-out", 8, _decimal(EVALUATED, 3)),
    Column("CPL", 6, _decimal("cpl_loss", 3)),
    Column("selected", 8, _decimal("cpl_selected_per_response", 1), 80),
    Column("staleness", 9, _staleness),
    Column("refused", 7, _refused, 90),
    Column("tokens/s", 8, _decimal("tokens_per_second", 0), 100),
    Column("time", 8, lambda metrics: clock(metrics.get("seconds"))),
)


def columns(metrics: Mapping[str, Any]) -> tuple[Column, ...]:
    """Those of a run, by one of its steps: each part of a reward of its own has one."""
    titles = {key: key.removeprefix("reward/") for key in own_parts(metrics)}
    own = [Column(t, max(6, len(t)), _decimal(k, 3), 110) for k, t in titles.items()]
    return COLUMNS[0], *own, *COLUMNS[1:]


class Display(Protocol):
    """What both displays can do."""

    def note(self, text: str) -> None:
        """Say something once."""

    def step(self, metrics: Mapping[str, Any]) -> None:
        """Show a finished training step."""

    def evaluation(self, step: int, accuracy: float, n: int, of: str) -> None:
        """Show an evaluation of `heldout` or `validation` problems."""


@contextmanager
def live_display(
    total_steps: int | None, objective: str, stream: TextIO | None = None
) -> Iterator[Display]:
    """The display that suits the stream (standard output unless given).

    `total_steps` is `None` where it is not known beforehand.
    """
    stream = sys.stdout if stream is None else stream
    if is_plain(stream):
        yield PlainLines(total_steps, objective, stream)
        return
    console = Console(file=stream, force_terminal=True, highlight=False)
    table = LiveTable(total_steps, objective, console)
    with Live(
        get_renderable=table.render,
        console=console,
        refresh_per_second=REFRESHES_PER_SECOND,
        vertical_overflow="crop",
    ) as live:
        table.refresh = live.refresh
        yield table


def is_plain(stream: TextIO) -> bool:
    """Whether the stream wants no control characters."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return True
    return not stream.isatty()


def clock(seconds: float | None) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def evaluation_line(step: int, accuracy: float, n: int, of: str = "heldout") -> str:
    """An evaluation in words, with its 95 % interval."""
    low, high = wilson_interval(round(accuracy * n), n)
    when = "before training" if step == 0 else f"after step {step}"
    name, what = _EVALUATIONS[of]
    return (
        f"{name} accuracy {when}: {100 * accuracy:.1f} % of {n} {what} "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f})"
    )


def printable(text: str) -> str:
    """The text without control characters other than line breaks."""
    return "".join(c for c in text if c == "\n" or c.isprintable())


class PlainLines:
    """One line a step, for files, pipes and terminals without control characters."""

    def __init__(self, total_steps: int | None, objective: str, stream: TextIO):
        self._total = total_steps
        self._stream = stream
        self._evaluated: dict[str, float] = {}
        self._lines = 0
        self._step_width = 6 if total_steps is None else 2 * len(str(total_steps)) + 1
        self._step_width = max(4, self._step_width)
        planned = "" if total_steps is None else f"{total_steps} "
        self._write(f"{objective}: {planned}training steps")

    def note(self, text: str) -> None:
        """Print a line of its own."""
        self._write(printable(text))

    def evaluation(
        self, step: int, accuracy: float, n: int, of: str = "heldout"
    ) -> None:
        """Print an evaluation."""
        self._evaluated = {EVALUATED: accuracy}
        self._write(evaluation_line(step, accuracy, n, of))

    def step(self, metrics: Mapping[str, Any]) -> None:
        """Print a step's line, under the column titles every 20 lines."""
        metrics = {**metrics, **self._evaluated}
        shown = columns(metrics)
        if self._lines % HEADER_EVERY == 0:
            titles = (f"{column.title:>{column.width}}" for column in shown)
            self._write("  ".join([f"{'step':>{self._step_width}}", *titles]))
        self._lines += 1
        of = "" if self._total is None else f"/{self._total}"
        step = f"{metrics['step']}{of}"
        cells = (f"{column.value(metrics):>{column.width}}" for column in shown)
        self._write("  ".join([f"{step:>{self._step_width}}", *cells]))

    def _write(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class LiveTable:
    """Progress bar and the last steps, as rich draws them.

    `render` may run in rich's refresh thread, so state is replaced, never mutated.
    """

    def __init__(self, total_steps: int | None, objective: str, console: Console):
        self._total = total_steps
        self._objective = objective
        self._console = console
        self._recent: tuple[Mapping[str, Any], ...] = ()
        self._first: Mapping[str, Any] | None = None
        self._evaluated: dict[str, float] = {}
        self._began = monotonic()
        self.refresh: Callable[[], None] = lambda: None

    def note(self, text: str) -> None:
        """Print a line above the display."""
        self._console.print(Text(printable(text)), soft_wrap=True)

    def evaluation(
        self, step: int, accuracy: float, n: int, of: str = "heldout"
    ) -> None:
        """Print an evaluation above the display."""
        self._evaluated = {EVALUATED: accuracy}
        self.note(evaluation_line(step, accuracy, n, of))

    def step(self, metrics: Mapping[str, Any]) -> None:
        """Add a step."""
        self._first = self._first or metrics
        newest = {**metrics, **self._evaluated}
        self._recent = (*self._recent, newest)[-RECENT_STEPS:]
        self.refresh()

    def remaining(self) -> float | None:
        """Seconds still to go at the pace since the first step, if known."""
        if not self._recent or self._first is None or self._total is None:
            return None
        last = self._recent[-1]
        steps = last["step"] - self._first["step"]
        if steps < 1 or "seconds" not in last or "seconds" not in self._first:
            return None
        pace = (last["seconds"] - self._first["seconds"]) / steps
        return pace * max(0, self._total - last["step"])

    def render(self) -> RenderableType:
        """Everything that is redrawn."""
        recent = self._recent
        parts: list[RenderableType] = [self._progress(recent)]
        if recent:
            parts.append(self._table(recent))
        return Group(*parts)

    def _progress(self, recent: tuple[Mapping[str, Any], ...]) -> RenderableType:
        done = recent[-1]["step"] if recent else 0
        left = self.remaining()
        when = f"{clock(monotonic() - self._began)} so far"
        if left:
            when += f", about {clock(left)} to go"
        line = Table.grid(padding=(0, 2))
        bar = ProgressBar(
            total=self._total,  # without one the bar pulses
            completed=done,
            width=24,
            complete_style="cyan",
            pulse_style="cyan",
        )
        line.add_row(
            Text(self._objective, style="bold"),
            bar,
            f"step {done}" if self._total is None else f"step {done} of {self._total}",
            Text(when, style="dim"),
        )
        return line

    def _table(self, recent: tuple[Mapping[str, Any], ...]) -> RenderableType:
        all_columns = columns(recent[-1])
        shown = [c for c in all_columns if self._console.width >= c.min_terminal]
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("step", justify="right", no_wrap=True)
        for column in shown:
            table.add_column(
                column.title, justify="right", no_wrap=True, min_width=column.width
            )
        for metrics in recent:
            newest = metrics is recent[-1]
            cells = [column.value(metrics) for column in shown]
            table.add_row(
                str(metrics["step"]), *cells, style="bold" if newest else None
            )
        return table
