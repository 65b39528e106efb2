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

`areal_cppo/studies/overrides.py` says which keys of the configuration can be set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from areal_cppo.core.checks import Bool, Number, check_fields, setting
from areal_cppo.errors import UserError
from areal_cppo.studies.arms import read_arms, read_overrides
from areal_cppo.studies.overrides import check_key
from areal_cppo.studies.parsing import check_name, made, mapping, names
from areal_cppo.studies.task import NO_SHIFT, study_task
from areal_cppo.tasks.registry import TASK_NAMES

_USUAL_REFERENCES = ("grpo", "cppo")

_COUNT = Number(1, integer=True)
_STEPS = Number(0, integer=True)


@dataclass(frozen=True)
class Evaluation:
    """What is measured of a policy on held-out problems, the same for all runs."""

    every: int = setting(20, _STEPS, "steps between evaluations; 0: at the end only")
    problems: int = setting(300, _COUNT, "held-out problems on the way")
    final: int = setting(1000, _COUNT, "held-out problems at the end")
    tokens: int = setting(200, _COUNT, "sampled responses whose tokens are looked at")
    shifts: list[str] = field(default_factory=list)

    def __post_init__(self):
        check_fields(self, "evaluate.")


@dataclass(frozen=True)
class Detection:
    """Perception tokens found by scores and views, against the truth."""

    every: int = setting(0, _STEPS, "steps between; 0: at the start and the end")
    problems: int = setting(200, _COUNT, "held-out problems, one response each")
    failures: int = setting(8, _STEPS, "responses kept whose selection fails most")
    arms: list[str] = field(default_factory=list)
    views: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def __post_init__(self):
        check_fields(self, "detection.")


@dataclass(frozen=True)
class Run:
    """One arm with one seed on one task: what a worker is told."""

    study: str
    task: str
    arm: str
    seed: int
    steps: int
    overrides: list[str]  # the arm's, `key=value`
    evaluate: Evaluation
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
    evaluate: Evaluation
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
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"study: expected a YAML file, found {path}: {error.strerror}; "
            "examples/cppo/studies holds some"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path.name}: expected YAML, found {reason}") from error
    try:
        document = mapping("the file", document)
        extra = _change(document, changes)
        return _study(made(_File, document, ""), path.stem, extra)
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
    evaluate = made(Evaluation, mapping("evaluate", file.evaluate), "evaluate.")
    if evaluate.shifts:
        known = set.intersection(*(set(study_task(task).shifts) for task in tasks))
        names("evaluate.shifts", evaluate.shifts, sorted(known - {NO_SHIFT}))
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
        seeds=_seeds(file.seeds),
        arms={arm: shared + own for arm, own in arms.items()},
        references=names("references", references, list(arms)),
        evaluate=evaluate,
        detection=_detection(file.detection, list(arms)),
        keep_checkpoints=file.keep_checkpoints,
    )


def _seeds(seeds: Any) -> list[int]:
    if isinstance(seeds, int) and not isinstance(seeds, bool) and seeds >= 1:
        return list(range(1, seeds + 1))
    plain = isinstance(seeds, list) and all(type(seed) is int for seed in seeds)
    if not plain or not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(
            "seeds: expected a number >= 1, or a list of different ones, found "
            f"{seeds!r}; correct it"
        )
    return seeds


def _detection(given: Any, arms: list[str]) -> Detection | None:
    if given is None:
        return None
    from areal_cppo.core import parse_perturbations

    block = made(Detection, mapping("detection", given), "detection.")
    if block.arms:
        names("detection.arms", block.arms, arms)
    for label, view in mapping("detection.views", block.views).items():
        check_name("detection.views", label)
        parse_perturbations(view, f"detection.views.{label}")
    return block
