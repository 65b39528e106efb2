"""`areal-cppo bench hand-over`: real workers and calls, a small batch."""

from __future__ import annotations

import json
import re

import pytest

from areal_cppo.cli.main import main

TINY = ["bench", "hand-over", "--responses", "16"]


@pytest.mark.slow
def test_bytes_and_seconds_of_both_ways(tmp_path, capsys):
    """A group of 8: at most a seventh; what arrives is compared on the way."""
    file = tmp_path / "hand-over.json"
    assert main([*TINY, "--images", "224x224", "--json", str(file)]) == 0
    document = json.loads(file.read_text())
    before, after = document["results"]
    assert document["complete"] and (before["way"], after["way"]) == ("before", "after")
    image = 256 * 1176 * 4 * 4 / 3  # bytes, in base64
    assert before["bytes"] > 2 * 16 * image > 2 * image > after["bytes"] / 1.6
    assert after["bytes_ratio"] < 1 / 7
    assert "224 x 224" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--images", "448"], "--images: expected .* found '448'"),
        (["--images", "450x448"], "sides multiples of 28"),
        (["--group", "5"], "--responses: expected a multiple of --group 5, found 16"),
    ],
)
def test_mistakes_are_told(options, found, capsys):
    assert main([*TINY, *options]) == 2
    assert re.search(found, capsys.readouterr().err)
