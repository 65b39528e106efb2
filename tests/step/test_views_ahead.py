"""Views are begun with the advantages, made once, and are those of an update alone."""

from __future__ import annotations

import threading

import pytest
import torch

from areal_cppo.core import ViewsConfig
from areal_cppo.core import views as core_views
from areal_cppo.step.views import ViewMaker, Workshop
from tests.step import harness

CPU = torch.device("cpu")
SPECS = {"positive": [{"name": "rotation"}], "negative": [{"name": "noise_patches"}]}


@pytest.fixture
def made(monkeypatch):
    """The threads in which views were made."""
    made: list[str] = []
    original = ViewMaker.__call__

    def spy(self, *args):
        made.append(threading.current_thread().name)
        return original(self, *args)

    monkeypatch.setattr(ViewMaker, "__call__", spy)
    return made


def image(seed: int) -> dict[str, torch.Tensor]:
    return harness.trajectory(seed, 1, 1.0)["multi_modal_input"][0]


def test_an_update_finds_the_views_that_its_advantages_began(actor, made):
    """Gated are three sets of images, of which one stands in two groups."""
    batch = harness.prepared(actor, harness.grouped_batch())
    assert len(made) <= 3  # perhaps under way
    ahead, _ = harness.update_gradient(actor, batch)
    assert len(made) == 3 and all(thread.startswith("views") for thread in made)
    alone, _ = harness.update_gradient(actor, batch)  # what was begun is taken
    assert len(made) == 6 and torch.equal(ahead, alone)


def test_nothing_is_begun_that_no_gate_lets_through(actor, made):
    items = [harness.trajectory(i, 5, -1.0) for i in range(2)]
    harness.prepared(actor, items)
    actor.config.objective = "grpo"
    harness.prepared(actor, harness.grouped_batch())
    assert not made


@pytest.mark.parametrize("change", ["version", "seed", "perturbation", "tensor"])
def test_other_views_are_made_anew(made, change):
    item, workshop = image(1), Workshop()
    make = ViewMaker(SPECS, harness.LAYOUT, 5)
    workshop.begin(make, [item], 0, CPU)
    version = int(change == "version")
    if change == "seed":
        make = ViewMaker(SPECS, harness.LAYOUT, 6)
    if change == "perturbation":
        make = ViewMaker(SPECS | {"negative": [{"name": "blank"}]}, harness.LAYOUT, 5)
    if change == "tensor":  # which may even be at the place of the other
        item = {key: value.clone() for key, value in image(2).items()}
    (got,) = workshop.take(make, [item], version, CPU)
    assert len(made) == 2
    expected = make(item, version, CPU)
    for kind in SPECS:
        assert torch.equal(got.pixel_values[kind], expected.pixel_values[kind])


def test_the_same_are_not(made):
    items, workshop = [image(1), image(2)], Workshop()
    for _ in range(2):
        workshop.begin(ViewMaker(SPECS, harness.LAYOUT, 5), items, 0, CPU)
    first, second = workshop.take(
        ViewMaker(SPECS, harness.LAYOUT, 5), items[::-1], 0, CPU
    )
    assert len(made) == 2
    assert not torch.equal(
        first.pixel_values["negative"], second.pixel_values["negative"]
    )


def test_an_image_is_hashed_once(monkeypatch):
    hashed = []
    original = core_views.image_digest
    monkeypatch.setattr(
        core_views,
        "image_digest",
        lambda image: hashed.append(image) or original(image),
    )
    views = ViewsConfig()
    specs = {"positive": views.positive, "negative": views.negative}
    ViewMaker(specs, harness.LAYOUT, 5)(image(1), 0, CPU)
    assert len(hashed) == 1


def test_what_fails_is_told_who_waits():
    broken = image(1) | {"image_grid_thw": torch.tensor([[2, 4, 4]])}
    workshop = Workshop()
    workshop.begin(ViewMaker(SPECS, harness.LAYOUT, 5), [broken], 0, CPU)
    with pytest.raises(ValueError, match="found t = 2"):
        workshop.take(ViewMaker(SPECS, harness.LAYOUT, 5), [broken], 0, CPU)
