"""Step 8: where the time of one step of arm d goes. Figures only.

The same step is made three times after a first one: under torch's profiler, with the
vision tower timed, and with operators counted that make the CPU wait.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from areal.utils.data import tensor_container_to
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from areal_cppo.bench.actors import Actors
from areal_cppo.bench.arms import select_arms
from areal_cppo.bench.models import make_batch
from areal_cppo.bench.train_step import train_step
from areal_cppo.bench.workload import Workload
from areal_cppo.core import PatchLayout
from tests.gpu_check import bench
from tests.gpu_check.findings import Findings
from tests.gpu_check.setting import Setting, wait
from tests.gpu_check.trace import events_of, summarize

FULL = replace(bench.FULL, groups=4)  # enough for two rows; more only takes longer
TINY = bench.TINY


def run(setting: Setting, findings: Findings) -> None:
    """Warm up, profile, time the tower, count."""
    workload = TINY if setting.tiny else FULL
    folder, config = bench.model(setting)
    actors = Actors(folder, workload)
    try:
        (arm,) = select_arms("d")
        actor = actors.ready(arm)
        step = _Step(actor, workload, config)
        step()
        figures = _profiled(step, setting)
        findings.figure(**figures)
        tower = _tower_share(step, actor.model.model.visual, setting)
        findings.figure(vision_tower=tower)
        with _Waiting() as waiting:
            step()
        findings.figure(operators_that_wait=dict(waiting.calls))
    finally:
        actors.close()
    idle, shares = figures["idle_share"], figures["share_by_kind"]
    findings.say(
        f"idle {'-' if idle is None else f'{idle:.0%}'}, "
        f"vision tower {tower['share']:.0%}, "
        f"index_add {shares.get('index_add', 0):.1%}, "
        f"{waiting.calls['aten._local_scalar_dense']} x item()"
    )


class _Step:
    """One train step on one batch, again and again."""

    def __init__(self, actor, workload: Workload, config: Any):
        self.actor = actor
        layout = PatchLayout.from_image_processor(actor.processor.image_processor)
        batch = make_batch(workload, config, layout)
        for item, logprobs in zip(batch, actor.compute_logp(batch), strict=True):
            own = torch.roll(logprobs.cpu(), 1, dims=-1)
            item["logprobs"] = own * item["loss_mask"]
        self.batch = tensor_container_to(batch, actor.device)

    def __call__(self) -> float:
        """Make it; seconds."""
        wait(self.actor.device)
        start = time.perf_counter()
        train_step(self.actor, self.batch)
        wait(self.actor.device)
        seconds = time.perf_counter() - start
        self.actor.export_stats()
        return seconds


def _profiled(step: _Step, setting: Setting) -> dict[str, Any]:
    # Kernels and calls of the runtime; operators would be several times as many.
    kind = ProfilerActivity.CUDA if setting.cuda else ProfilerActivity.CPU
    plain = step()
    with profile(activities=[kind]) as profiler:
        seconds = step()
    figures = summarize(events_of(profiler), seconds)
    return figures | {"step_seconds_without_profiler": plain}


def _tower_share(step: _Step, visual: torch.nn.Module, setting: Setting) -> dict:
    """Time of the vision tower in a step, on the device's own clock."""
    clock = TowerClock(setting)
    with clock.watching(visual):
        seconds = step()
    forward, backward = clock.seconds()
    return {
        "forward_passes": len(clock.forward),
        "forward_seconds": forward,
        "backward_passes": len(clock.backward),
        "backward_seconds": backward,
        "share": (forward + backward) / seconds,
    }


class TowerClock:
    """Stamps at the vision tower's beginning and end, forward and backward.

    Backward it begins when the gradient of what it returns is there, and is over, but
    for the patches' embedding, when that of the embedded patches is; in between
    autograd does nothing else, because it takes the youngest operations first.
    """

    def __init__(self, setting: Setting):
        self.cuda = setting.cuda
        self.forward: list[tuple[Any, Any]] = []
        self.backward: list[tuple[Any, Any]] = []
        self._begun: list[Any] = []

    @contextmanager
    def watching(self, visual: torch.nn.Module):
        """Within, the tower is timed."""
        handles = [
            visual.register_forward_pre_hook(self._enter, prepend=True),
            visual.patch_embed.register_forward_hook(self._embedded),
            visual.register_forward_hook(self._leave),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def seconds(self) -> tuple[float, float]:
        """Forward and backward; once the device has done all."""

        def between(pair: tuple[Any, Any]) -> float:
            if not self.cuda:
                return pair[1] - pair[0]
            return pair[0].elapsed_time(pair[1]) / 1000

        return sum(map(between, self.forward)), sum(map(between, self.backward))

    def _stamp(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _enter(self, module, args) -> None:
        self._start = self._stamp()

    def _embedded(self, module, args, output) -> None:
        if output.requires_grad:
            output.register_hook(self._ended)

    def _leave(self, module, args, output) -> None:
        self.forward.append((self._start, self._stamp()))
        features = output.pooler_output
        if features.requires_grad:
            features.register_hook(lambda _: self._begun.append(self._stamp()))

    def _ended(self, _) -> None:
        self.backward.append((self._begun.pop(), self._stamp()))


class _Waiting(TorchDispatchMode):
    """Counts operators for whose result the CPU waits."""

    _NAMES = ("aten._local_scalar_dense", "aten.nonzero", "aten.equal")

    def __init__(self):
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func._overloadpacket)
        if name in self._NAMES:
            self.calls[name] += 1
        return func(*args, **kwargs or {})
