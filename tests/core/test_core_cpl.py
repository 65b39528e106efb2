"""Settings: defaults, refusals and the OmegaConf route that a YAML takes.

Covers every field of CPLConfig, ViewsConfig and StalenessConfig. What a perturbation's
parameters do to an image is in test_core_perturbations.py; AReaL's own config classes
are not touched here.
"""

import dataclasses

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, ValidationError

from areal_cppo.core import CPLConfig, StalenessConfig, ViewsConfig


def test_defaults_are_the_published_settings():
    config = CPLConfig()
    assert (config.coef, config.tau, config.top_fraction) == (0.01, 0.1, 0.5)
    assert config.divergence == "kl"
    assert config.gate == "positive_advantage"
    assert config.aggregation == "sequence"
    assert config.selection == "entropy_gain"
    assert config.grad == ["anchor", "positive", "negative"]
    assert (config.quota, config.min_gain) == ("ceil", 0.0)
    assert config.staleness == StalenessConfig(5.0, 1.0, None, True)
    assert [view["name"] for view in config.views.positive] == [
        "color_jitter",
        "perspective",
        "rotation",
        "gaussian_blur",
    ]
    assert [view["name"] for view in config.views.negative] == [
        "noise_patches",
        "zoom_crop",
    ]
    assert config.views.positive[1]["probability"] == 0.5


def test_defaults_are_not_shared_between_objects():
    one, other = CPLConfig(), CPLConfig()
    one.grad.remove("anchor")
    one.views.positive[0]["brightness"][0] = 0.0
    assert other == CPLConfig()


def test_every_field_has_help():
    for cls in (CPLConfig, ViewsConfig, StalenessConfig):
        for field in dataclasses.fields(cls):
            assert len(field.metadata["help"]) > 10, (cls, field.name)


LEGAL = [
    {"coef": 0},
    {"coef": 0.0},
    {"tau": 1e-6},
    {"top_fraction": 1},
    {"min_gain": 0},
    {"min_gain": 1},
    {"quota": "floor"},
    {"divergence": "k3"},
    {"gate": "none"},
    {"aggregation": "token"},
    {"selection": "all"},
    {"grad": ["negative"]},
    {"grad": ("anchor", "positive")},
    {"staleness": StalenessConfig(importance_cap=None)},
    {"staleness": StalenessConfig(importance_cap=1)},
    {"staleness": StalenessConfig(decay=0, max_staleness=0)},
    {"staleness": StalenessConfig(importance_weight=False)},
    {"views": ViewsConfig(negative=[{"name": "blank"}])},
    # A positive view may be its anchor: the published perspective is, every other time.
    {"views": ViewsConfig(positive=[{"name": "blank", "probability": 0}])},
]


@pytest.mark.parametrize("values", LEGAL, ids=str)
def test_legal_values_are_kept(values):
    config = CPLConfig(**values)
    for name, value in values.items():
        kept = getattr(config, name)
        assert kept == (list(value) if isinstance(value, tuple) else value)
    assert isinstance(config.coef, float)


REFUSED = [
    ("coef", -0.01, "a number in [0, 1000]"),
    ("coef", float("nan"), "a number in [0, 1000]"),
    ("coef", float("inf"), "a number in [0, 1000]"),
    ("coef", True, "a number in [0, 1000]"),
    ("coef", "0.01", "a number in [0, 1000]"),
    ("coef", None, "a number in [0, 1000]"),
    ("tau", 0, "a number in [1e-06, 1e+06]"),
    ("tau", -1.0, "a number in [1e-06, 1e+06]"),
    ("top_fraction", 0.0, "a number in (0, 1]"),
    ("top_fraction", 1.5, "a number in (0, 1]"),
    ("top_fraction", True, "a number in (0, 1]"),
    ("min_gain", -0.01, "a number in [0, 1]"),
    ("min_gain", 1.01, "a number in [0, 1]"),
    ("min_gain", float("nan"), "a number in [0, 1]"),
    ("min_gain", None, "a number in [0, 1]"),
    ("quota", "round", "one of ceil, floor"),
    ("quota", None, "one of ceil, floor"),
    ("divergence", "KL", "one of kl, k1, k2, k3"),
    ("divergence", 1, "one of kl, k1, k2, k3"),
    ("gate", "positive", "one of positive_advantage, none"),
    ("gate", None, "one of positive_advantage, none"),
    ("aggregation", "mean", "one of sequence, token"),
    ("selection", "top", "one of entropy_gain, entropy_rise, random, all"),
    ("grad", [], "a non-empty list"),
    ("grad", ["anchor", "anchor"], "a non-empty list"),
    ("grad", ["view"], "a non-empty list"),
    ("grad", "anchor", "a non-empty list"),
    ("grad", [1], "a non-empty list"),
    ("views", {"positive": []}, "a ViewsConfig"),
    ("staleness", None, "a StalenessConfig"),
]


@pytest.mark.parametrize(("name", "value", "expected"), REFUSED, ids=str)
def test_refusals_say_field_expected_found_and_fix(name, value, expected):
    with pytest.raises(ValueError) as error:
        CPLConfig(**{name: value})
    message = str(error.value)
    assert message.startswith(f"cpl.{name}: expected {expected}")
    assert f", found {value!r} ({type(value).__name__}); " in message
    assert "give it such a value" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"importance_cap": 0.5}, "cpl.staleness.importance_cap: expected a number"),
        ({"importance_cap": True}, "cpl.staleness.importance_cap: expected a number"),
        ({"decay": 1.1}, "cpl.staleness.decay: expected a number in"),
        ({"decay": None}, "cpl.staleness.decay: expected a number in"),
        ({"max_staleness": -1}, "cpl.staleness.max_staleness: expected an integer"),
        ({"max_staleness": 1.5}, "cpl.staleness.max_staleness: expected an integer"),
        ({"max_staleness": False}, "cpl.staleness.max_staleness: expected an integer"),
        (
            {"importance_weight": 1},
            "cpl.staleness.importance_weight: expected true or false, found 1 .int.; ",
        ),
        (
            {"importance_weight": None},
            "cpl.staleness.importance_weight: expected true or false",
        ),
    ],
)
def test_staleness_refusals(values, message):
    with pytest.raises(ValueError, match=message):
        StalenessConfig(**values)


VIEW_REFUSALS = [
    ([], "cpl.views.negative: expected at least one perturbation"),
    (None, "cpl.views.negative: expected at least one perturbation"),
    ("blank", "cpl.views.negative: expected at least one perturbation"),
    (["blank"], "cpl.views.negative[0]: expected a mapping"),
    ([{"count": 3}], "cpl.views.negative[0].name: expected one of black_squares"),
    ([{"name": "blnk"}], "cpl.views.negative[0].name: expected one of black_squares"),
    ([{"name": ["blank"]}], "cpl.views.negative[0].name: expected one of"),
    (
        [{"name": "blank"}, {"name": "noise_patches", "counts": 3}],
        "cpl.views.negative[1]: expected a parameter of noise_patches "
        "(count, probability, side), found 'counts'",
    ),
    (
        [{"name": "noise_patches", "count": 0}],
        "cpl.views.negative[0] noise_patches.count: expected an integer in [1, 10000]",
    ),
    (
        [{"name": "noise_patches", "side": [0.2, 0.1]}],
        "cpl.views.negative[0] noise_patches.side: expected [low, high]",
    ),
    (
        [{"name": "zoom_crop", "scale": 0.6}],
        "cpl.views.negative[0] zoom_crop.scale: expected [low, high]",
    ),
    (
        [{"name": "zoom_crop", "scale": [0.6, True]}],
        "cpl.views.negative[0] zoom_crop.scale: expected [low, high]",
    ),
    (
        [{"name": "blank", "probability": 1.5}],
        "cpl.views.negative[0] blank.probability: expected a number in [0, 1]",
    ),
    (
        [{"name": "blank", "strength": 0}],
        "cpl.views.negative[0] blank.strength: expected a number in (0, 1]",
    ),
    (
        [{"name": "noise", "strength": 1.5}],
        "cpl.views.negative[0] noise.strength: expected a number in (0, 1]",
    ),
    (
        [{"name": "blank", "probability": 0}, {"name": "noise", "probability": 0.0}],
        "cpl.views.negative: expected at least one perturbation of probability > 0",
    ),
    (
        [{"name": "gaussian_blur", "kernel_size": 4}],
        "cpl.views.negative[0] gaussian_blur.kernel_size: expected an odd integer",
    ),
]


@pytest.mark.parametrize(("negative", "expected"), VIEW_REFUSALS, ids=str)
def test_views_refusals(negative, expected):
    with pytest.raises(ValueError) as error:
        ViewsConfig(negative=negative)
    assert str(error.value).startswith(expected)
    assert "; " in str(error.value) and "\n" not in str(error.value)


def test_one_negative_that_is_sometimes_applied_is_enough():
    views = [{"name": "blank", "probability": 0}, {"name": "noise", "probability": 0.1}]
    assert ViewsConfig(negative=views).negative == views


def test_yaml_round_trip_through_omegaconf():
    schema = OmegaConf.structured(CPLConfig)
    overrides = OmegaConf.create(
        """
        top_fraction: 0.25
        min_gain: 0.01
        quota: floor
        grad: [anchor]
        views:
          negative:
            - {name: zoom_crop, scale: [0.3, 0.4]}
        staleness: {importance_cap: null, max_staleness: 2, importance_weight: no}
        """
    )
    config = OmegaConf.to_object(OmegaConf.merge(schema, overrides))
    assert isinstance(config, CPLConfig)
    assert config == CPLConfig(
        top_fraction=0.25,
        min_gain=0.01,
        quota="floor",
        grad=["anchor"],
        views=ViewsConfig(negative=[{"name": "zoom_crop", "scale": [0.3, 0.4]}]),
        staleness=StalenessConfig(None, max_staleness=2, importance_weight=False),
    )
    again = OmegaConf.create(OmegaConf.to_yaml(OmegaConf.structured(config)))
    assert OmegaConf.to_object(OmegaConf.merge(schema, again)) == config


def test_omegaconf_route_refuses_unknown_keys_types_and_ranges():
    schema = OmegaConf.structured(CPLConfig)
    with pytest.raises(ConfigKeyError):
        OmegaConf.merge(schema, {"top_percent": 50})
    with pytest.raises(ValidationError):
        OmegaConf.merge(schema, {"tau": "warm"})
    with pytest.raises(ValueError, match="cpl.tau: expected a number in"):
        OmegaConf.to_object(OmegaConf.merge(schema, {"tau": 0.0}))
