"""A picture's file, and the tiny random model families of tests/training."""

import sys
from pathlib import Path

import pytest
from drawn import picture

sys.path.append(str(Path(__file__).parents[1] / "training"))  # families


@pytest.fixture(scope="session")
def image_file(tmp_path_factory) -> Path:
    """A PNG of 84 x 84 pixels, as the triangle task's."""
    path = tmp_path_factory.mktemp("image") / "shapes.png"
    picture().save(path)
    return path
