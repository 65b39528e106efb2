"""`actor.kept_view_tokens`: views not computed again, with the same gradient."""

from __future__ import annotations

import pytest

from tests.step import harness

# Of `grouped_batch`: four prompts with an image, and six gated responses.
VIEW = (11 + 14 + 9 + 11) + (12 + 20) + 8 + (7 + 11) + 13


@pytest.fixture
def checkpointing(model_folder, actor):
    actor.model.gradient_checkpointing_enable({"use_reentrant": False})
    yield actor
    actor.model.gradient_checkpointing_disable()
    actor.config.kept_view_tokens = 0


def test_views_are_kept_up_to_so_many_tokens(checkpointing):
    actor = checkpointing
    items = harness.prepared(actor, harness.grouped_batch())
    rows = []
    inside = actor.model.model.language_model.layers[0].input_layernorm
    handle = inside.register_forward_pre_hook(lambda _, x: rows.append(x[0].shape[1]))
    found = {}
    try:
        for most in (0, 2 * VIEW - 1, 2 * VIEW):
            actor.config.kept_view_tokens = most
            rows.clear()
            gradient, _ = harness.update_gradient(actor, items)
            found[most] = rows.count(VIEW), len(rows), gradient
    finally:
        handle.remove()
    again, passes, gradient = found[0]
    assert again == 4  # both views, and once more on the way back
    assert found[2 * VIEW - 1][:2] == (again, passes)
    assert found[2 * VIEW][:2] == (2, passes - 2)
    for _, _, other in found.values():
        assert harness.relative_difference(other, gradient) < 1e-6
