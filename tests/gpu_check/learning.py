"""Step 10, on request: a larger model of ours is taught and trained on the GPU.

The model that `areal-cppo tiny-model --task legends` makes, in four times the width and
depth (44 million parameters), taught here until it reads enough; then two arms of
`examples/cppo/studies/robustness.yaml` with two seeds each, in this process. Ten
minutes on an H100, by counting; runs that there is no time for are left out.
"""

from __future__ import annotations

import time
from dataclasses import replace

from areal_cppo.folder import read_lines
from areal_cppo.studies.folder import StudyFolder
from areal_cppo.studies.run import run_study_run
from areal_cppo.studies.spec import Study, read_study
from areal_cppo.tasks.problems import ReadingTask, reading_task
from areal_cppo.tasks.reading_lesson import ReadingLesson
from areal_cppo.tasks.warmup import LEARNING_RATE, MAX_STEPS, save_checkpoint, warm_up
from tests.gpu_check.bench import note
from tests.gpu_check.findings import Findings
from tests.gpu_check.packages import ROOT
from tests.gpu_check.setting import Setting

STUDY = ROOT / "examples" / "cppo" / "studies" / "robustness.yaml"
ARMS = ("grpo", "robust")
SCALE = 4
_RL_RATE = 2e-4  # of our size; larger models need a lower one
_TINY = (
    "seeds=1",
    "steps=1",
    "evaluate.problems=8",
    "evaluate.final=8",
    "evaluate.shifted=4",
)


def run(setting: Setting, findings: Findings) -> None:
    """Teach, train, compare; what is finished is kept at once."""
    scale = 1 if setting.tiny else SCALE
    task = _teach(setting, scale, findings)
    study = _study(scale, setting.tiny)
    means = study.evaluate.means | {"as trained on": ["none"]}
    found: dict[tuple[str, int], dict[str, float]] = {}
    for one in study.runs():
        if one.arm not in ARMS:
            continue
        folder = StudyFolder(setting.scratch / "learning").create().run(one).start()
        start = time.perf_counter()
        run_study_run(folder, lambda _: None, task)
        lines = list(read_lines(folder.file("evaluations")))
        by_shift = {line["shift"]: line for line in lines if line["step"] == one.steps}
        figures = {
            name: sum(by_shift[shift]["accuracy"] for shift in shifts) / len(shifts)
            for name, shifts in means.items()
        }
        found[one.arm, one.seed] = figures
        figures |= {
            "before": lines[0]["accuracy"],
            "seconds": time.perf_counter() - start,
        }
        findings.figure(**{f"{one.arm}, seed {one.seed}": figures})
        findings.say(_headline(found, list(means)))
        note(f"{one.arm}, seed {one.seed}: {figures}")
    findings.least("runs", len(found), len(ARMS) * len(study.seeds))


def _teach(setting: Setting, scale: int, findings: Findings) -> ReadingTask:
    """The task, with a model that was taught here to start from."""
    task = reading_task("legends")
    lesson = ReadingLesson(task, scale)
    target = 0.0 if setting.tiny else lesson.target_accuracy
    if setting.tiny:
        lesson = _Hasty(task, scale)
    model, history = warm_up(
        lesson,
        0,
        target,
        MAX_STEPS,
        lambda progress: note(f"taught {progress}"),
        setting.device,
        LEARNING_RATE / scale,
    )
    last = history[-1]
    findings.figure(
        parameters=model.num_parameters(),
        taught={"steps": last.step, "seconds": last.seconds, "read": last.accuracy},
    )
    findings.least("read all right after the lesson", last.accuracy, target)
    folder = setting.scratch / "learning-model"
    save_checkpoint(model, lesson, folder)
    return replace(task, checkpoint=folder)


class _Hasty(ReadingLesson):
    """Ends at once."""

    first_check = 1


def _study(scale: int, tiny: bool) -> Study:
    changes = ["tasks=legends", "seeds=2", "steps=60"]
    changes += [f"actor.optimizer.lr={_RL_RATE / scale}"]
    return read_study(STUDY, [*changes, *_TINY * tiny])


def _headline(found: dict[tuple[str, int], dict[str, float]], means: list[str]) -> str:
    """Greedy accuracy of the second arm less the first's, in points, by seed."""
    words = []
    for name in means:
        pairs = [
            100 * (found[ARMS[1], seed][name] - found[ARMS[0], seed][name])
            for arm, seed in found
            if arm == ARMS[1] and (ARMS[0], seed) in found
        ]
        words += [f"{name} {', '.join(f'{x:+.1f}' for x in pairs)}"] if pairs else []
    return f"{ARMS[1]} less {ARMS[0]}: " + ("; ".join(words) or "one arm alone")
