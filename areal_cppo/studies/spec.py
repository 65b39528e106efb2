"""A study's YAML file, read and checked.

    name: small
    tasks: [triangles]
    steps: 60                  # train steps of a run; 0: only the start is evaluated
    seeds: 5                   # 1 to 5, or a list
    settings:                  # of the configuration, for all arms
      rollout.max_head_offpolicyness: 0
    arms:                      # name: what it changes
      grpo: {actor.objective: grpo}
      cppo: {}
    grid:                      # prefix, or an arm to start from: lists to combine
      cppo:
        actor.cpl.coef: [0.003, 0.03]
        actor.cpl.grad: {anchor: [anchor], views: [positive, negative]}  # by label
    references: [grpo, cppo]   # arms that all others are compared with
    evaluate: {every: 20, problems: 300}
    detection: {every: 30, problems: 200}

`areal_cppo/studies/arms.py` says which keys of the configuration can be set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from areal_cppo.checks import COUNT, Bool, Number, check_fields, setting
from areal_cppo.config import SHIFTS, TASK_NAMES
from areal_cppo.core import parse_perturbations
from areal_cppo.errors import UserError
from areal_cppo.studies.arms import (
    check_key,
    check_name,
    mapping,
    names,
    read_arms,
    read_document,
    read_overrides,
    read_seeds,
)

NO_SHIFT = SHIFTS[0]

# The negative views that detection compares unless a study names its own. Sides and
# scales are shares of the picture's side; strengths are named where they are not the
# published ones.
VIEWS: dict[str, list[dict[str, Any]]] = {
    "noise_patches": [{"name": "noise_patches"}],
    "noise_patches_15-30": [{"name": "noise_patches", "side": [0.15, 0.30]}],
    "zoom_crop": [{"name": "zoom_crop"}],
    "zoom_crop_30-40": [{"name": "zoom_crop", "scale": [0.3, 0.4]}],
    "black_squares_40": [{"name": "black_squares", "coverage": 0.4}],
    "black_squares_80": [{"name": "black_squares", "coverage": 0.8}],
    "blur_3": [{"name": "gaussian_blur", "kernel_size": 13, "sigma": 3.0}],
    "blur_10": [{"name": "gaussian_blur", "kernel_size": 41, "sigma": 10.0}],
    "blank_50": [{"name": "blank", "strength": 0.5}],
    "blank": [{"name": "blank"}],
    "noise_50": [{"name": "noise", "strength": 0.5}],
}

_USUAL_REFERENCES = ("grpo", "cppo")

_STEPS = Number(0, integer=True)


@dataclass(frozen=True)
class EvaluationSpec:
    """What is measured of a policy on held-out problems, the same for all runs."""

    every: int = setting(20, _STEPS, "steps between evaluations; 0: at the end only")
    problems: int = setting(300, COUNT, "held-out problems on the way")
    final: int = setting(1000, COUNT, "held-out problems at the end")
    tokens: int = setting(200, COUNT, "sampled responses whose tokens are looked at")
    gradients: int = setting(0, _STEPS, "batches whose gradients are compared; 0: none")
    shifts: list[str] = field(default_factory=list)  # with `every: 0` at the end only
    shifted: int = setting(500, COUNT, "held-out problems under each shift")
    means: dict[str, list[str]] = field(default_factory=dict)  # over shifts, by label

    def __post_init__(self):
        check_fields(self, "evaluate.")
        if not self.means and len(self.shifts) > 1:
            object.__setattr__(self, "means", {"mean of shifts": self.shifts})


@dataclass(frozen=True)
class Detection:
    """Perception tokens found by scores and views, against the truth."""

    every: int = setting(0, _STEPS, "steps between; 0: at the start and the end")
    problems: int = setting(200, COUNT, "held-out problems, one response each")
    failures: int = setting(8, _STEPS, "responses kept whose selection fails most")
    arms: list[str] = field(default_factory=list)
    views: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def __post_init__(self):
        check_fields(self, "detection.")

    @property
    def compared(self) -> dict[str, list[dict[str, Any]]]:
        """Negative views by label, each as `actor.cpl.views.negative` takes it."""
        return self.views or VIEWS


@dataclass(frozen=True)
class Run:
    """One arm with one seed on one task: what a worker is told."""

    study: str
    task: str
    arm: str
    seed: int
    steps: int
    overrides: list[str]  # the arm's, `key=value`
    evaluate: EvaluationSpec
    detection: Detection | None
    keep_checkpoint: bool

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return f"{self.task}-{self.arm}-s{self.seed}"


@dataclass(frozen=True)
class Study:
    """A study; `arms` hold overrides, `key=value`, those of `settings` included."""

    name: str
    tasks: list[str]
    steps: int
    seeds: list[int]
    arms: dict[str, list[str]]
    references: list[str]
    evaluate: EvaluationSpec
    detection: Detection | None
    keep_checkpoints: bool

    def runs(self) -> list[Run]:
        """Every run, seed by seed: a study that is cut off has whole comparisons."""
        return [
            Run(
                study=self.name,
                task=task,
                arm=arm,
                seed=seed,
                steps=self.steps,
                overrides=overrides,
                evaluate=self.evaluate,
                detection=self._detection(arm),
                keep_checkpoint=self.keep_checkpoints,
            )
            for seed in self.seeds
            for task in self.tasks
            for arm, overrides in self.arms.items()
        ]

    def _detection(self, arm: str) -> Detection | None:
        detection = self.detection
        if detection is None or arm in (detection.arms or [arm]):
            return detection
        return None


@dataclass
class _File:
    """The file's own words."""

    name: str = ""
    tasks: Any = field(default_factory=lambda: ["triangles"])
    steps: int = setting(60, _STEPS, "train steps of each run")
    seeds: Any = 1
    settings: Any = field(default_factory=dict)
    arms: Any = field(default_factory=dict)
    grid: Any = field(default_factory=dict)
    references: Any = None
    evaluate: Any = field(default_factory=dict)
    detection: Any = None
    keep_checkpoints: bool = setting(False, Bool(), "keep each run's last weights")

    def __post_init__(self):
        check_fields(self, "")


def read_study(path: str | Path, changes: Sequence[str] = ()) -> Study:
    """Read a study.

    Parameters
    ----------
    path
        The YAML file.
    changes
        `key=value`: of the file's own keys (`steps=4`, `evaluate.problems=50`) or of
        the configuration, for all arms (`actor.optimizer.lr=2e-4`).

    Raises
    ------
    UserError
        One line: what was expected, what was found and where.
    """
    path = Path(path)
    document = read_document(path)
    try:
        document = mapping("the file", document)
        extra = _change(document, changes)
        return _study(_made(_File, document, ""), path.stem, extra)
    except (UserError, ValueError) as error:
        raise UserError(f"{path.name}: {error}") from error


def _change(document: dict[str, Any], changes: Sequence[str]) -> list[str]:
    """Apply changes to the file's own keys; the others, as they are."""
    own = {item.name for item in fields(_File)}
    extra = []
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise UserError(f"expected key=value, found {change!r}; correct it")
        first, *rest = key.split(".")
        if first not in own:
            check_key(key.lstrip("+~"), "key=value")
            extra.append(change)
            continue
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"{key}: expected a YAML value, found {text!r}") from error
        place = document
        for part in (first, *rest)[:-1]:
            if not isinstance(place.get(part), dict):
                place[part] = {}
            place = place[part]
        place[(first, *rest)[-1]] = value
    return extra


def _study(file: _File, stem: str, extra: list[str]) -> Study:
    name = file.name or stem
    check_name("name", name)
    tasks = [file.tasks] if isinstance(file.tasks, str) else file.tasks
    tasks = names("tasks", tasks, list(TASK_NAMES))
    evaluate = _made(EvaluationSpec, mapping("evaluate", file.evaluate), "evaluate.")
    if evaluate.shifts:
        names("evaluate.shifts", evaluate.shifts, sorted({*SHIFTS} - {NO_SHIFT}))
    for label, some in mapping("evaluate.means", evaluate.means).items():
        names(f"evaluate.means.{label}", some, evaluate.shifts)
    arms = read_arms(file.arms, file.grid)
    shared = read_overrides("settings", file.settings) + extra
    references = file.references
    if references is None:
        references = [arm for arm in _USUAL_REFERENCES if arm in arms]
        references = references or [next(iter(arms))]
    return Study(
        name=name,
        tasks=tasks,
        steps=file.steps,
        seeds=read_seeds(file.seeds),
        arms={arm: shared + own for arm, own in arms.items()},
        references=names("references", references, list(arms)),
        evaluate=evaluate,
        detection=_detection(file.detection, list(arms)),
        keep_checkpoints=file.keep_checkpoints,
    )


def _detection(given: Any, arms: list[str]) -> Detection | None:
    if given is None:
        return None
    block = _made(Detection, mapping("detection", given), "detection.")
    if block.arms:
        names("detection.arms", block.arms, arms)
    for label, view in mapping("detection.views", block.views).items():
        check_name("detection.views", label)
        parse_perturbations(view, f"detection.views.{label}")
    return block


def _made(cls: type, document: dict[str, Any], prefix: str) -> Any:
    """A dataclass from a mapping; an unknown key gets its line."""
    known = [item.name for item in fields(cls)]
    for key in document:
        if key not in known:
            near = get_close_matches(str(key), known, n=3, cutoff=0.5) or known
            raise UserError(
                f"{prefix}{key}: expected a key of a study, found {key!r}; did you "
                f"mean {', '.join(near)}?"
            )
    return cls(**document)
