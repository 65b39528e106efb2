"""A picture's file; the families of tests/training and the data of tests/data."""

import sys
from pathlib import Path

import pytest
from drawn import picture

for folder in ("training", "data"):  # families, problem_files
    sys.path.append(str(Path(__file__).parents[1] / folder))


@pytest.fixture(scope="session")
def image_file(tmp_path_factory) -> Path:
    """A PNG of 84 x 84 pixels, as the triangle task's."""
    path = tmp_path_factory.mktemp("image") / "shapes.png"
    picture().save(path)
    return path
