"""The reference of all keys: whole, right where checked by hand, and as documented."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from areal_cppo.cli.main import main
from areal_cppo.config.experiment import CPPOConfig
from areal_cppo.config.reference import find, keys
from areal_cppo.errors import UserError

DOC = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_each_key_is_there_once():
    names = [key.name for key in keys()]
    assert len(names) == len({*names})
    blocks = {key.name for key in keys() if key.type == "block"}
    whole = OmegaConf.to_container(OmegaConf.structured(CPPOConfig))
    for block in ("", "actor", "actor.cpl", "actor.cpl.staleness", "reward", "sglang"):
        values = whole
        for part in filter(None, block.split(".")):
            values = values[part]
        inside = {f"{block}.{name}".lstrip(".") for name in values}
        assert inside <= {*names} and (not block or block in blocks)


def test_what_is_said_of_a_key():
    (tau,) = find("actor.cpl.tau")
    assert (tau.type, tau.default, tau.of) == ("float", "0.1", "areal_cppo")
    assert tau.bounds == "a number in [1e-06, 1e+06]"
    (limit,) = find("total_train_steps")
    assert (limit.type, limit.default, limit.of) == ("int | null", "null", "areal")
    assert find("actor.scheduling_spec.0.cpu") == find("actor.scheduling_spec.*.cpu")


def test_all_of_ours_say_what_they_mean():
    for key in keys():
        if key.of == "areal_cppo" and key.type != "block":
            assert key.meaning and (key.bounds or key.type), key.name


def test_an_unknown_key_has_neighbours():
    with pytest.raises(UserError, match=r"did you mean actor\.cpl\.tau"):
        find("actor.cpl.taus")


def test_the_document_is_the_commands(capsys):
    assert main(["config", "--markdown"]) == 0
    said = capsys.readouterr().out
    text = DOC.read_text(encoding="utf-8")
    assert text.partition("\n## ")[2] == said.partition("## ")[2]
