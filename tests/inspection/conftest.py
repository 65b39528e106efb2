"""A picture's file."""

from pathlib import Path

import pytest

from tests.inspection.drawn import picture


@pytest.fixture(scope="session")
def image_file(tmp_path_factory) -> Path:
    """A PNG of 84 x 84 pixels, as the triangle task's."""
    path = tmp_path_factory.mktemp("image") / "shapes.png"
    picture().save(path)
    return path
