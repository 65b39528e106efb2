"""What the demo hands to a run. Real demos: tests/test_demo.py."""

from __future__ import annotations

import pytest

from areal_cppo.cli import demo
from areal_cppo.cli.main import main
from areal_cppo.config.experiment import load_config
from areal_cppo.config.objectives import OBJECTIVES


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_positive_views_that_the_tiny_model_reads(objective, tmp_path, monkeypatch):
    """A mild turn in place of the published jitter; what the user says has its way."""
    asked = []
    monkeypatch.setattr(demo, "run_with_display", lambda *args: asked.append(args) or 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # the demo sets it
    own = "actor.cpl.views.positive=[{name: blank}]"
    line = ["demo", "--objective", objective, "--steps", "2"]
    for i, more in enumerate([[], [own]]):
        assert main([*line, "--out", str(tmp_path / str(i)), *more]) == 0
    views = [
        load_config(config, overrides).actor.cpl.views.positive
        for config, overrides, *_ in asked
    ]
    published = OBJECTIVES[objective].settings != "cpl"
    assert (views[0][0]["name"] == "color_jitter") is published
    assert [view["name"] for view in views[1]] == ["blank"]
