"""Step 5: the images' views on the GPU against the CPU's, and what they cost.

Random numbers are drawn on the CPU whatever the device, so that the same seed makes the
same view; what is left is how each device interpolates and sums.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import torch
from torch import Tensor

from areal_cppo.core import CPLConfig, PatchLayout, patchify
from areal_cppo.core.perturbations import PERTURBATIONS
from areal_cppo.step.views import ViewMaker
from tests.gpu_check.findings import Findings
from tests.gpu_check.setting import Setting, wait

STEP = 1 / 255  # of an 8-bit image, whose pixels here go from 0 to 1
SEEDS = 3


@dataclass(frozen=True)
class Sizes:
    """Height and width of the images, pixels; the first one is timed."""

    images: tuple[tuple[int, int], ...]
    repeats: int


FULL = Sizes(((1120, 896), (448, 448), (56, 84)), 5)  # 1,003,520 pixels first
TINY = Sizes(((56, 84), (28, 28)), 2)


def run(setting: Setting, findings: Findings) -> None:
    """Each perturbation, then both views of an image as a step makes them."""
    sizes = TINY if setting.tiny else FULL
    worst = _each(setting.device, sizes, findings)
    _both(setting.device, sizes, findings)
    views = findings.figures["views_of_one_image"]
    findings.say(
        f"largest difference {worst * 255:.2g} of an 8-bit step; "
        f"{views['milliseconds']:.0f} ms an image, {views['hashing_share']:.0%} hashing"
    )


def _image(height: int, width: int) -> Tensor:
    """`[3, H, W]` in [0, 1]: noise, which no interpolation forgives."""
    generator = torch.Generator().manual_seed(height * width)
    return torch.rand(3, height, width, generator=generator)


def _each(device: torch.device, sizes: Sizes, findings: Findings) -> float:
    differences = {}
    for name, kind in PERTURBATIONS.items():
        perturb, worst = kind(), 0.0
        for height, width in sizes.images:
            image = _image(height, width)
            for seed in range(SEEDS):
                here, there = (
                    perturb(x, torch.Generator().manual_seed(seed))
                    for x in (image, image.to(device))
                )
                worst = max(worst, float((there.cpu() - here).abs().max()))
        differences[name] = worst
    findings.figure(largest_differences=differences)
    for name, difference in differences.items():
        findings.most(f"{name}: GPU against CPU", difference, STEP)
    return max(differences.values())


def _both(device: torch.device, sizes: Sizes, findings: Findings) -> None:
    layout, config = PatchLayout(), CPLConfig()
    perturbations = {
        "positive": config.views.positive,
        "negative": config.views.negative,
    }
    make = ViewMaker(perturbations, layout, run_seed=1)
    height, width = sizes.images[0]
    mean, std = (
        torch.tensor(x).view(3, 1, 1) for x in (layout.image_mean, layout.image_std)
    )
    pixels = patchify([(_image(height, width) - mean) / std], layout)
    side = layout.patch_size
    item = {
        "pixel_values": pixels,
        "image_grid_thw": torch.tensor([[1, height // side, width // side]]),
    }
    cpu = torch.device("cpu")
    most = max(layout.image_std)
    for version in range(SEEDS):
        here = make(item, version, cpu)
        there = make(item, version, device)
        for kind, view in there.pixel_values.items():
            difference = (view - here.pixel_values[kind]).abs().max()
            name = f"{kind} view of version {version}: GPU against CPU"
            findings.most(name, float(difference) * most, STEP)
        findings.true(
            f"version {version}: the same views are unchanged",
            there.unchanged == here.unchanged,
        )
    total, hashing = _times(make, item, device, sizes.repeats)
    on_cpu, _ = _times(make, item, cpu, max(1, sizes.repeats // 2))
    findings.figure(
        views_of_one_image={
            "pixels": height * width,
            "milliseconds": 1000 * total,
            "hashing_share": hashing / total,
            "milliseconds_on_the_cpu": 1000 * on_cpu,
        }
    )


def _times(make: ViewMaker, item: dict, device, repeats: int) -> tuple[float, float]:
    """Seconds of both views of an image, and those of its hashing in it."""
    make(item, 0, device)
    clock = {"hashing": 0.0}
    start = time.perf_counter()
    with _hashing_timed(clock, device):
        for version in range(repeats):
            make(item, version, device)
        wait(device)
    return (time.perf_counter() - start) / repeats, clock["hashing"] / repeats


@contextmanager
def _hashing_timed(clock: dict[str, float], device: torch.device) -> Iterator[None]:
    """Within, add up the seconds of `image_digest`."""
    from areal_cppo.core import views as core_views

    digest = core_views.image_digest

    def timed(image: Tensor) -> bytes:
        wait(device)  # what was under way before is not hashing
        start = time.perf_counter()
        found = digest(image)
        clock["hashing"] += time.perf_counter() - start
        return found

    with mock.patch.object(core_views, "image_digest", timed):
        yield
