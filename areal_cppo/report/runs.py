"""Read a run's folder, however much of it there is yet."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import yaml
from PIL import UnidentifiedImageError

from areal_cppo.folder import FAILED, SHARED, WARNING, RunFolder, read_lines
from areal_cppo.metrics import own_parts
from areal_cppo.report.samples import SampleView, read_samples
from areal_cppo.report.timeline import Timeline

RUN_FILES = ("metrics.jsonl", "evaluations.jsonl", "summary.json", "config.yaml")


@dataclass(frozen=True)
class RunContents:
    """What a run's folder holds. Missing parts are empty and named in `notes`.

    `metrics` has a record a step and `evaluations` one per evaluation, both in
    order of step. `torn_lines` counts JSONL lines that could not be read.
    """

    folder: Path
    metrics: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    timeline: Timeline = field(default_factory=Timeline)
    samples: list[SampleView] = field(default_factory=list)
    config_text: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    torn_lines: int = 0
    notes: list[str] = field(default_factory=list)

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """The steps at which `key` has a finite number, and the numbers."""
        pairs = [(record["step"], record.get(key)) for record in self.metrics]
        pairs = [(step, value) for step, value in pairs if is_number(value)]
        return [step for step, _ in pairs], [float(value) for _, value in pairs]

    def last(self, key: str) -> Any:
        """The latest value of a metric, or `None`."""
        values = (record.get(key) for record in reversed(self.metrics))
        return next((value for value in values if value is not None), None)

    def figure(self, key: str, metric: str | None = None) -> Any:
        """A value of the summary, else the latest of the metric that has it."""
        value = self.summary.get(key)
        return self.last(metric or key) if value is None else value

    @property
    def objective(self) -> str | None:
        """`cppo`, `grpo`, `cpl` or whatever the run calls it, if known."""
        actor = self.config.get("actor")
        configured = actor.get("objective") if isinstance(actor, dict) else None
        return self.summary.get("objective") or configured

    @property
    def seed(self) -> int | None:
        """The run's seed, if known."""
        seed = self.summary.get("seed")
        return self.config.get("seed") if seed is None else seed

    @property
    def problems(self) -> str:
        """Of what its accuracies are that were not trained on, in a word."""
        validated = any(each.get("of") == "validation" for each in self.evaluations)
        return "Validation" if validated else "Held-out"

    @property
    def failure(self) -> str | None:
        """Why the run's last life failed, if it did and is no longer at it."""
        last = RunFolder(self.folder).last_of_life()
        return str(last.get("reason")) if last.get("event") == FAILED else None

    @property
    def own_parts(self) -> list[str]:
        """The parts of a reward of one's own, as they are called in the metrics."""
        return own_parts({key for record in self.metrics for key in record})

    @property
    def warnings(self) -> list[tuple[int, str]]:
        """Step and text of each warning; step 0 is before training."""
        events = read_lines(self.folder / "events.jsonl")
        early = [str(e.get("text")) for e in events if e.get("event") == WARNING]
        found = [(0, text) for text in dict.fromkeys(early)]
        for record in self.metrics:
            lines = record.get("warnings")
            for line in lines if isinstance(lines, list) else ():
                found.append((record["step"], str(line)))
        return found

    @property
    def shares_problems(self) -> bool:
        """Whether some that it was measured on were trained on."""
        return any(SHARED in text for _, text in self.warnings)

    @property
    def staleness(self) -> dict[int, float]:
        """Response tokens trained on, by staleness in policy versions."""
        totals: Counter[int] = Counter()
        for record in self.metrics:
            histogram = record.get("staleness_histogram")
            for key, tokens in histogram.items() if isinstance(histogram, dict) else ():
                if key.isdecimal() and is_number(tokens):
                    totals[int(key)] += tokens
        return dict(sorted(totals.items()))

    @property
    def has_cpl(self) -> bool:
        """Whether any step recorded the Contrastive Perception Loss."""
        return any(key.startswith("cpl_") for rec in self.metrics for key in rec)

    @property
    def seconds(self) -> float:
        """How long training took, as far as is known."""
        known = self.figure("seconds")
        return float(known) if is_number(known) and known > 0 else self.timeline.end


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number (a bool is not)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isfinite(value)


def load_run(folder: Path | str) -> RunContents:
    """Read a run's folder; raise `ValueError` if it is not one."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(
            f"expected a run's folder, found {'a file' if folder.exists() else 'none'} "
            f"at {folder}; pass a run's run_dir (demo: --out)"
        )
    if not any((folder / name).is_file() for name in RUN_FILES):
        names = sorted(entry.name for entry in folder.iterdir())[:5]
        raise ValueError(
            f"expected a run's folder with at least one of {', '.join(RUN_FILES)}, "
            f"found {', '.join(names) or 'nothing'} in {folder}; pass a run's "
            "run_dir (demo: --out)"
        )
    notes: list[str] = []
    metrics, torn_metrics = _json_lines(folder / "metrics.jsonl", notes)
    evaluations, torn_evaluations = _json_lines(folder / "evaluations.jsonl", notes)
    if not metrics:
        notes.append("No training step is recorded yet: metrics.jsonl has no step.")
    if not evaluations:
        notes.append("No accuracy on other problems: evaluations.jsonl has none.")
    summary = _json_file(folder / "summary.json", dict, notes)
    timeline = _timeline(_json_file(folder / "timeline.json", dict, notes), notes)
    config_text, config = _config(folder / "config.yaml", notes)
    return RunContents(
        folder=folder,
        metrics=metrics,
        evaluations=evaluations,
        summary=summary,
        timeline=timeline,
        samples=_samples(folder, notes),
        config_text=config_text,
        config=config,
        torn_lines=torn_metrics + torn_evaluations,
        notes=notes,
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _json_lines(path: Path, notes: list[str]) -> tuple[list[dict[str, Any]], int]:
    """Records by step (a repeated step keeps its last record) and torn lines."""
    if not path.is_file():
        return [], 0
    records: dict[int, dict[str, Any]] = {}
    torn: list[int] = []
    repeated = 0
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        record = _parse(line)
        if not isinstance(record, dict) or not is_number(record.get("step")):
            torn.append(number)
            continue
        repeated += record["step"] in records
        records[record["step"]] = record
    if torn:
        lines = ", ".join(str(number) for number in torn[:5])
        more = f" and {len(torn) - 5} more" if len(torn) > 5 else ""
        notes.append(
            f"{path.name}: left out {len(torn)} unreadable line"
            f"{'s' if len(torn) > 1 else ''} (line {lines}{more}), as an interrupted "
            "run leaves behind."
        )
    if repeated:
        notes.append(
            f"{path.name}: {repeated} records repeat an earlier step (a resumed run); "
            "the latest record of each step is shown."
        )
    return [records[step] for step in sorted(records)], len(torn)


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def _json_file(path: Path, kind: Callable[[], Any], notes: list[str]) -> Any:
    if not path.is_file():
        why = " (the run was interrupted or still goes on)"
        notes.append(f"{path.name} is missing{why if path.stem == 'summary' else ''}.")
        return kind()
    value = _parse(_text(path))
    if not isinstance(value, dict):
        notes.append(f"{path.name} is not a JSON object and is left out.")
        return kind()
    return value


def _config(path: Path, notes: list[str]) -> tuple[str | None, dict[str, Any]]:
    """The resolved config as it is written, and its values."""
    if not path.is_file():
        notes.append("config.yaml is missing: the resolved config is not shown.")
        return None, {}
    written = _text(path)
    try:
        values = yaml.safe_load(written)
    except yaml.YAMLError:
        values = None
    if not isinstance(values, dict):
        notes.append("config.yaml is not a YAML mapping; it is shown as it is.")
        return written, {}
    return written, values


def _timeline(value: dict[str, Any], notes: list[str]) -> Timeline:
    """Keep the well-formed intervals; count the others."""
    kept: dict[str, list[Any]] = {"generation": [], "training": [], "weights": []}
    dropped = 0
    for side, spans in kept.items():
        for span in value.get(side) or []:
            numbers = isinstance(span, list) and all(map(is_number, span[:2]))
            if not numbers or len(span) < 2 or span[1] < span[0]:
                dropped += 1
            elif side == "training":
                name = str(span[2]) if len(span) > 2 else "training"
                spans.append((span[0], span[1], name))
            else:
                spans.append((span[0], span[1]))
    if dropped:
        notes.append(f"timeline.json: left out {dropped} intervals without an end.")
    return Timeline(**kept)


def _samples(folder: Path, notes: list[str]) -> list[SampleView]:
    if not (folder / "samples.json").is_file():
        if not any((folder / "samples").glob("step-*.json")):  # see step_samples.py
            notes.append("samples.json is missing: no sample responses are shown.")
        return []
    try:
        return read_samples(folder)
    except (ValueError, UnidentifiedImageError) as error:
        notes.append(f"samples.json is left out: {error}")
        return []
