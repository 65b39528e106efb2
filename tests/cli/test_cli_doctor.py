"""The doctor's checks against packages and folders that are made up or are not there.

Not covered: a machine with a GPU or Slurm.
"""

import importlib.metadata

import pytest

from areal_cppo.cli import doctor as module
from areal_cppo.cli.doctor import Check, as_table, check_checkpoint, check_package


@pytest.fixture
def installed(monkeypatch):
    """Pretend that exactly these distributions are installed."""

    def pretend(**versions: str) -> None:
        def version(name: str) -> str:
            if name not in versions:
                raise importlib.metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(module.metadata, "version", version)

    return pretend


@pytest.mark.parametrize(
    "found, wanted, exact, ready",
    [
        ("2.13.0+cpu", "2.9", False, True),
        ("2.9", "2.9", False, True),
        ("2.8.1", "2.9", False, False),
        ("0.5.10.post1", "0.5.10.post1", True, True),
        ("0.5.11", "0.5.10.post1", True, False),
    ],
)
def test_versions_are_compared_as_numbers(installed, found, wanted, exact, ready):
    installed(torch=found)
    check = check_package("torch", wanted, exact)
    assert (check.ready, check.found) == (ready, found)


def test_a_missing_package_is_named_with_the_way_to_get_it(installed):
    installed()
    check = check_package("kornia", "0.8")
    assert check.state == "MISSING"
    assert "make setup" in check.remedy and "0.8" in check.remedy
    assert check_package("flash-attn", "2.8", remedy="pip").state == "absent"


def test_checkpoint_needs_config_and_weights(tmp_path):
    assert not check_checkpoint(tmp_path).ready
    (tmp_path / "config.json").touch()
    assert not check_checkpoint(tmp_path).ready
    (tmp_path / "model.safetensors").touch()
    assert check_checkpoint(tmp_path).ready


def test_table_gives_remedies_only_where_needed():
    table = as_table([Check("a", True, "1", "never"), Check("long", False, "-", "do")])
    assert table.splitlines() == [
        "ready    a     1",
        "MISSING  long  -",
        "               -> do",
    ]


@pytest.mark.parametrize(
    "checks, status, words",
    [
        ([Check("a", True, "1")], 0, "can run here"),
        ([Check("b", False, "-", required=False)], 0, "can run here"),
        ([Check("c", False, "-"), Check("d", False, "-")], 1, "yet: c, d"),
    ],
)
def test_status_tells_whether_the_demo_can_run(
    monkeypatch, capsys, checks, status, words
):
    monkeypatch.setattr(module, "all_checks", lambda: checks)
    assert module.doctor() == status
    assert words in capsys.readouterr().out


def test_every_check_runs_on_this_machine():
    checks = module.all_checks()
    assert all(check.found and (check.ready or check.remedy) for check in checks)
    assert len({check.name for check in checks}) == len(checks)
