"""What is told of a configuration's keys before AReaL is imported."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator

import pytest

from areal_cppo.cli.common import config_file
from areal_cppo.config import keys
from areal_cppo.config.classes import config_classes
from areal_cppo.config.experiment import CPPOConfig, load_config
from areal_cppo.errors import UserError

CONFIG = config_file("triangles.yaml")


def dataclasses_of(owner: type) -> Iterator[tuple[type, dict[str, type | None]]]:
    """Each dataclass below one, and the single dataclass that a field may hold."""
    hints = typing.get_type_hints(owner)
    nested: dict[str, type | None] = {}
    for field in dataclasses.fields(owner):
        hint = hints[field.name]
        members = typing.get_args(hint) if isinstance(hint, types.UnionType) else [hint]
        (member, *others) = [item for item in members if item is not types.NoneType]
        single = not others and dataclasses.is_dataclass(member)
        nested[field.name] = member if single else None
    yield owner, nested
    for member in filter(None, nested.values()):
        yield from dataclasses_of(member)


def test_the_sources_say_what_the_dataclasses_are():
    classes = config_classes()
    found = list(dataclasses_of(CPPOConfig))
    assert len({owner for owner, _ in found}) > 30
    for owner, nested in found:
        read = classes[owner.__name__]
        assert list(read) == list(nested), owner
        for name, member in nested.items():
            if member is not None:
                assert read[name] == member.__name__, (owner, name)
            else:
                assert read[name] not in classes, (owner, name)


@pytest.mark.parametrize(
    "override",
    [
        *("seeed=2", "actor.cpl.taau=1", "ref.nothing.at=1", "+actor.nothing=1"),
        *("actor.path=[", "word", "~actor.nothing", "batch_size=4"),
    ],
)
def test_the_same_is_said_as_with_areal(override):
    with pytest.raises(UserError) as late:
        load_config(CONFIG, [override])
    with pytest.raises(UserError) as early:
        keys.check_early(CONFIG, [override], paths=[])
    assert str(early.value) == str(late.value)
    if override == "batch_size=4":
        assert "did you mean train_dataset.batch_size, valid_data" in str(late.value)


@pytest.mark.parametrize("text", ["a: [1", "seeed: 2", "actor: {paath: x}"])
def test_the_same_is_said_of_a_file(text, tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as late:
        load_config(path)
    with pytest.raises(UserError) as early:
        keys.check_early(path)
    assert str(early.value) == str(late.value)


def test_all_wrong_keys_and_paths_are_told_at_once():
    wrong = ["seeed=2", "actor.cpl.taau=1", "actor.path=/no/model"]
    with pytest.raises(UserError) as caught:
        keys.check_early(CONFIG, wrong)
    first, *lines = str(caught.value).splitlines()
    assert first == "3 things to mend"
    assert len(lines) == 3
    for key in ("seeed", "actor.cpl.taau", "actor.path"):
        assert (
            sum(f"{key}: expected" in line and "found" in line for line in lines) == 1
        )


def test_all_wrong_values_are_told_at_once():
    wrong = ["actor.cpl.tau=-1", "gconfig.n_samples=0", "reward.processes=0", "seed=-1"]
    with pytest.raises(UserError) as caught:
        load_config(CONFIG, wrong)
    text = str(caught.value)
    assert text.startswith("4 things to mend\n")
    for override in wrong:
        assert f"command line: {override.partition('=')[0]}: expected" in text


def test_a_mistake_is_told_of_where_it_was_made(tmp_path):
    """Of the file, or of the command line, which wins over it."""
    path = tmp_path / "mine.yaml"
    path.write_text("defaults: [triangles, _self_]\nseed: -1\nactor: {cpl: {tau: -1}}")
    with pytest.raises(UserError) as caught:
        load_config(path, ["actor.cpl.tau=-2"])
    first, *lines = str(caught.value).splitlines()
    assert {line.strip().partition(": expected")[0] for line in lines} == {
        "mine.yaml: seed",
        "command line: actor.cpl.tau",
    }


@pytest.mark.parametrize("text", ["", "experiment_name: mine\n"])
def test_a_file_without_defaults(text, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="expected defaults, or a block actor, found n"):
        keys.check_early(path)


def test_a_reward_file_that_is_not_there(tmp_path):
    wrong = f"reward.function={tmp_path}/judge.py:score"
    with pytest.raises(UserError, match=f"found no file {tmp_path}/judge.py; correct"):
        keys.check_early(CONFIG, [wrong])
    (tmp_path / "judge.py").touch()
    keys.check_early(CONFIG, [wrong])  # its function is looked for later


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("actor:\n  cpl: {tau: 1\nseed: 3\n", "wrong.yaml, line 3: not YAML: expected"),
        ("a: [1", "wrong.yaml, line 1: not YAML: "),
        ("defaults:\n - a\n- b\n", "wrong.yaml, line 3: not YAML: "),
        ("seed: 1\nseed: 2\n", "wrong.yaml, line 2: not YAML: found duplicate key"),
    ],
)
def test_what_is_not_yaml_is_told_with_its_line(text, said, tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        keys.check_early(path)
    assert said in str(caught.value)


def test_what_areal_has_words_for_is_left_to_it():
    keys.check_early(CONFIG, ["actor.behave_imp_weight_cap=1"], paths=[])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["actor.path=/no/model"], "actor.path: expected a model folder"),
        (
            ["actor.path=a/b", "valid_dataset.path=/no/x"],
            "valid_dataset.path: expected",
        ),
        (["actor.path=a/b", "train_dataset.path=/no/x"], "found nothing at /no/x"),
    ],
)
def test_paths(overrides, words):
    real = ["data.source=geometry3k", "train_dataset.path=owner/name"]
    with pytest.raises(UserError, match=words):
        keys.check_early(CONFIG, [*real, *overrides])
    keys.check_early(CONFIG, [*real, "actor.path=a/b"])


def test_of_a_synthetic_task_its_own_message_says_more():
    keys.check_early(CONFIG, ["actor.path=a/b", "train_dataset.path=squares"])
