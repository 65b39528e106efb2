"""Files that a command writes, and what was there before."""

from __future__ import annotations

import os

import pytest

from areal_cppo.cli.common import output_file
from areal_cppo.cli.main import main
from areal_cppo.errors import UserError


def test_what_will_be_replaced_is_said_and_stays_till_then(tmp_path, capsys):
    file = tmp_path / "numbers.json"
    assert output_file(str(file), "--json") == file and not file.exists()
    file.touch()
    output_file(str(file), "--json")
    assert capsys.readouterr().err == ""
    file.write_text("{}")
    os.utime(file, (0, 0))
    output_file(str(file), "--json", (".json",))
    said = capsys.readouterr().err
    assert said.startswith(f"--json: {file}, of 19") and "will be replaced" in said
    assert file.read_text() == "{}"


def test_a_wrong_ending_and_a_place_that_is_none(tmp_path):
    with pytest.raises(UserError, match="a name that ends in .png or .html"):
        output_file("sheet.pdf", "-o", (".png", ".html"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="expected a file that can be written"):
        output_file(str(tmp_path / "file" / "sheet.png"), "-o")


def test_a_model_goes_into_no_folder_in_use(tmp_path, capsys):
    (tmp_path / "kept").write_text("mine")
    assert main(["tiny-model", "--out", str(tmp_path)]) == 2
    assert "--out: expected a new or empty folder" in capsys.readouterr().err
    assert (tmp_path / "kept").read_text() == "mine"
