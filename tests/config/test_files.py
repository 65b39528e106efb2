"""Where a configuration's file is, and what its `defaults` find."""

from __future__ import annotations

from pathlib import Path

import pytest

from areal_cppo.config.agreements import check_agreements
from areal_cppo.config.experiment import load_config
from areal_cppo.config.files import PACKAGE, SHIPPED, check_file, compose
from areal_cppo.config.keys import check_early
from areal_cppo.errors import UserError

OWN = "defaults:\n  - {}\n  - _self_\n{}\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(name: str, base: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(OWN.format(base, text))
        return path

    return write


def test_the_packages_configurations_are_found_from_any_folder(write):
    write("mine.yaml", "qwen2_5_vl-3b_geometry3k_grpo", "total_train_steps: 7")
    config = load_config("mine.yaml")
    assert (config.total_train_steps, config.actor.objective) == (7, "grpo")


def test_absolute_paths_and_theirs(write):
    first = write("one/base.yaml", "triangles", "total_train_steps: 7")
    second = write("two/base.yaml", str(first.with_suffix("")), "seed: 9")
    third = write("third.yaml", f"{second}   # said why", "seed: 11")
    config = load_config(third, ["actor.cpl.tau=0.5"])
    assert (config.total_train_steps, config.seed, config.actor.cpl.tau) == (7, 11, 0.5)
    assert load_config(second).seed == 9


def test_a_folders_own_file_comes_before_the_packages(write):
    write("charts.yaml", "triangles", "seed: 12")
    mine = write("mine.yaml", "charts", "total_train_steps: 3")
    composed = compose(mine, [])
    assert (composed.seed, composed.train_dataset.path) == (12, "triangles")


def test_what_a_file_itself_searches(write, tmp_path):
    write("elsewhere/fast.yaml", "triangles", "total_train_steps: 3")
    text = f"hydra:\n  searchpath: [file://{tmp_path}/elsewhere]\nseed: 13"
    config = load_config(write("mine.yaml", "fast", text))
    assert (config.total_train_steps, config.seed) == (3, 13)


def test_a_packages_file_by_its_name(write, tmp_path):
    for name in ("triangles.yaml", "configs/triangles.yaml"):
        assert check_file(name) == SHIPPED / "triangles.yaml"
    model = load_config("triangles.yaml").actor.path
    assert Path(model) == PACKAGE / "tasks" / "triangles" / "checkpoint"
    own = tmp_path / "triangles.yaml"
    own.write_text("seed: 1\n")
    assert check_file("triangles.yaml") == Path("triangles.yaml")  # one's own is first


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("trangles.yaml", "did you mean triangles.yaml?"),
        ("nothing_like_it.yaml", "the package has some, as triangles.yaml"),
    ],
)
def test_a_file_that_is_not_there(write, name, said):
    with pytest.raises(UserError, match="config: expected a YAML file, found none at"):
        check_file(name)
    with pytest.raises(UserError) as caught:
        check_file(name)
    assert said in str(caught.value)


def test_a_missing_default_is_told_by_the_files_own_name(write):
    write("mine.yaml", "triangels", "seed: 1")
    with pytest.raises(UserError) as caught:
        check_early("mine.yaml")
    assert str(caught.value) == (
        "mine.yaml: defaults of mine: expected a file beside it, or one of the "
        "package's, found none of the name triangels; did you mean triangles?"
    )


def readmes_own() -> str:
    readme = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    return readme.partition("<<'YAML'\n")[2].partition("YAML\n")[0]


@pytest.mark.parametrize(
    ("was", "now", "key"),
    [
        ("experiment_name: mine\n", "", "experiment_name"),
        ("path: train.jsonl, ", "", "train_dataset.path"),
    ],
)
def test_what_is_missing_is_told_by_its_key(tmp_path, monkeypatch, was, now, key):
    text = readmes_own()
    assert was in text
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(text.replace(was, now))
    with pytest.raises(UserError) as caught:
        load_config("mine.yaml")
    expected = f"mine.yaml: {key}: expected a value, found none; set it"
    assert str(caught.value) == expected


def test_what_parts_leave_out_has_defaults(tmp_path, monkeypatch):
    """A folder of the run that is not the disk's root, and the type of a dataset."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(readmes_own().replace("run_dir: runs/mine\n", ""))
    config = load_config("mine.yaml", begins=False)
    assert config.run_dir == "runs/mine-first"
    assert config.train_dataset.type == config.valid_dataset.type == "rl"


def test_the_readmes_own_configuration(tmp_path, monkeypatch):
    text = readmes_own()
    (tmp_path / "reward.py").write_text("def reward(completions, **_):\n    return 1\n")
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(text)
    config = load_config("mine.yaml")
    check_agreements(config)
    assert config.data.source == "custom" and config.train_dataset.batch_size == 64
    assert config.reward.function == f"{tmp_path}/reward.py:reward"
