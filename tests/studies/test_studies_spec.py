"""Study files: arms, grid, changes; a bad one gets its line; shipped ones are good."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from areal_cppo.config.experiment import load_config
from areal_cppo.errors import UserError
from areal_cppo.studies.arms import check_exist
from areal_cppo.studies.preflight import check_arms, load_run_config
from areal_cppo.studies.spec import read_study

EXAMPLES = Path(__file__).parents[2] / "examples" / "cppo" / "studies"
ARMS = {"grpo": {"actor.objective": "grpo"}, "cppo": {}}


@pytest.fixture
def read(tmp_path):
    def read_document(document, *changes):
        path = tmp_path / "study.yaml"
        text = (
            document
            if isinstance(document, str)
            else yaml.safe_dump(document, sort_keys=False)
        )
        path.write_text(text, encoding="utf-8")
        return read_study(path, changes)

    return read_document


def test_defaults(read):
    study = read({"arms": ARMS})
    assert study.name == "study"
    assert (study.tasks, study.steps, study.seeds) == (["triangles"], 60, [1])
    assert study.references == ["grpo", "cppo"]
    assert study.detection is None
    assert study.arms == {"grpo": ["actor.objective='grpo'"], "cppo": []}


def test_runs_go_seed_by_seed(read):
    runs = read({"arms": ARMS, "seeds": [3, 5]}).runs()
    assert [(run.seed, run.arm) for run in runs] == [
        (3, "grpo"),
        (3, "cppo"),
        (5, "grpo"),
        (5, "cppo"),
    ]
    assert len({run.folder for run in runs}) == 4


def test_grid_is_a_product_that_starts_from_an_arm(read):
    study = read(
        {
            "settings": {"actor.optimizer.lr": 0.0002},
            "arms": {"base": {"actor.cpl.tau": 0.2}},
            "grid": {
                "base": {
                    "actor.cpl.coef": [0.01, 0.1],
                    "actor.cpl.grad": {"anchor": ["anchor"]},
                },
                "stale": {"actor.cpl.staleness.importance_weight": [True, False]},
            },
        }
    )
    assert list(study.arms) == [
        "base",
        "base,coef=0.01,grad=anchor",
        "base,coef=0.1,grad=anchor",
        "stale,importance_weight=true",
        "stale,importance_weight=false",
    ]
    assert study.arms["base,coef=0.1,grad=anchor"] == [
        "actor.optimizer.lr=0.0002",
        "actor.cpl.tau=0.2",
        "actor.cpl.coef=0.1",
        "actor.cpl.grad=['anchor']",
    ]
    assert study.references == ["base"]


def test_overrides_reach_the_configuration(read):
    """Numbers, words, null, lists, mappings and lists of them, of any nesting."""
    settings = {
        "actor.objective": "cpl",
        "actor.cpl.coef": 0.5,
        "actor.cpl.staleness.importance_cap": None,
        "actor.cpl.staleness.importance_weight": False,
        "actor.cpl.grad": ["anchor", "negative"],
        "actor.cpl.views.negative": [
            {"name": "noise_patches", "side": [0.1, 0.2]},
            {"name": "blank", "probability": 0.5},
        ],
        "rollout.max_head_offpolicyness": 3,
    }
    study = read({"arms": {"a": settings}})
    checkpoint = Path("/a folder/it's here")
    config = load_run_config(study.arms["a"], seed=7, steps=9, checkpoint=checkpoint)
    actor, cpl = config.actor, config.actor.cpl
    assert actor.objective == "cpl"
    assert (cpl.coef, cpl.grad) == (0.5, ["anchor", "negative"])
    assert cpl.staleness.importance_cap is None
    assert cpl.staleness.importance_weight is False
    assert cpl.views.negative == settings["actor.cpl.views.negative"]
    assert config.rollout.max_head_offpolicyness == 3
    assert (config.seed, actor.view_seed, config.total_train_steps) == (7, 7, 9)
    assert actor.path == str(checkpoint)


def test_changes_on_the_command_line(read):
    study = read(
        {"arms": ARMS, "detection": {}},
        "steps=4",
        "seeds=[2,9]",
        "evaluate.problems=50",
        "arms.third={actor.cpl.coef: 0.3}",
        "detection.problems=7",
        "actor.optimizer.lr=2e-4",
    )
    assert (study.steps, study.seeds) == (4, [2, 9])
    assert study.evaluate.problems == 50
    assert study.detection.problems == 7
    assert study.arms["third"] == ["actor.optimizer.lr=2e-4", "actor.cpl.coef=0.3"]


BAD = [
    ("[1, 2]", (), "keys and values"),
    ("arms: {a: {}", (), "YAML"),
    ({"arms": {}}, (), "arms: expected at least one"),
    ({"arms": ARMS, "step": 3}, (), "did you mean steps"),
    ({"arms": ARMS, "steps": -1}, (), "steps: expected an integer >= 0"),
    ({"arms": ARMS, "seeds": 0}, (), "seeds: expected a number >= 1"),
    ({"arms": ARMS, "seeds": [1, 1]}, (), "list of different ones"),
    ({"arms": ARMS, "tasks": ["squares"]}, (), "tasks: expected some of triangles"),
    ({"arms": {"a/b": {}}}, (), "names a folder"),
    ({"arms": {"a": {"seed": 3}}}, (), "set seeds instead"),
    ({"arms": {"a": {"sglang.dtype": "x"}}}, (), "arms.a: expected a key that a run"),
    ({"arms": {"a": [1]}}, (), "arms.a: expected keys and values"),
    ({"arms": ARMS, "references": ["ppo"]}, (), "references: expected some of grpo"),
    ({"arms": ARMS, "grid": {"g": {"actor.cpl.tau": 3}}}, (), "a list of values"),
    (
        {"arms": ARMS, "grid": {"g": {"actor.cpl.grad": [["anchor"]]}}},
        (),
        "a name each",
    ),
    ({"arms": ARMS, "evaluate": {"every": 1.5}}, (), "evaluate.every: expected an int"),
    ({"arms": ARMS, "evaluate": {"shifts": ["snow"]}}, (), "evaluate.shifts"),
    ({"arms": ARMS, "detection": {"arms": ["x"]}}, (), "detection.arms"),
    (
        {"arms": ARMS, "detection": {"views": {"v": [{"name": "fog"}]}}},
        (),
        "detection.views.v",
    ),
    ({"arms": ARMS}, ("steps",), "expected key=value"),
    ({"arms": ARMS}, ("cluster.n_nodes=2",), "expected a key that a run"),
]


@pytest.mark.parametrize(("document", "changes", "words"), BAD)
def test_a_bad_study_gets_its_line(read, document, changes, words):
    with pytest.raises(UserError) as caught:
        read(document, *changes)
    message = str(caught.value)
    assert words in message
    assert message.startswith("study.yaml: ")
    assert "\n" not in message


BAD_ARMS = [
    ({"actor.cpl.coeff": 1}, "did you mean coef"),
    ({"actor.cpl.coef": -1}, "cpl.coef: expected a number in [0, 1000]"),
    ({"actor.cpl.tau": "warm"}, "tau"),
    ({"actor.use_lora": True}, "actor.use_lora"),
    ({"train_dataset.batch_size": 4}, "expected 64 responses a step as in grpo"),
]


@pytest.mark.parametrize(("settings", "words"), BAD_ARMS)
def test_a_bad_arm_is_told_before_anything_runs(read, settings, words):
    study = read({"arms": {"grpo": ARMS["grpo"], "bad": settings}})
    with pytest.raises(UserError) as caught:
        check_arms(study)
    assert str(caught.value).startswith("arms.bad: ")
    assert words in str(caught.value)


def test_an_unknown_key_is_told_alike_without_areal(read):
    study = read({"arms": {"bad": {"actor.cpl.views.negatif": []}}})
    told = []
    for check, argument in ((check_exist, study.arms), (check_arms, study)):
        with pytest.raises(UserError) as caught:
            check(argument)
        told.append(str(caught.value))
    assert told[0] == told[1] and "did you mean negative" in told[0]


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="examples/cppo/studies holds some"):
        read_study(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_studies_are_good(path):
    study = read_study(path)
    check_exist(study.arms)
    assert study.name == path.stem
    assert len(check_arms(study)) == len(study.arms)


def test_the_recipe_robust_is_what_was_studied():
    """`robust` of robustness.yaml, on the recipe's own model and data."""
    study = read_study(EXAMPLES / "robustness.yaml")
    studied = load_run_config(study.arms["robust"], seed=1, steps=1, checkpoint="/x")
    recipe = load_config("qwen2_5_vl-3b_geometry3k_robust.yaml", begins=False)
    assert recipe.actor.cpl == studied.actor.cpl
    assert recipe.actor.objective == studied.actor.objective == "cppo"
