"""`demo --objective` offers what `actor.objective` takes, each with its words."""

import pytest

from areal_cppo.cli.main import _parser
from areal_cppo.config.experiment import OBJECTIVES as CONFIGURABLE
from areal_cppo.report.vocabulary import OBJECTIVES


def test_every_objective_has_words():
    assert set(OBJECTIVES) == set(CONFIGURABLE)


@pytest.mark.parametrize("objective", CONFIGURABLE)
def test_the_demo_takes_it(objective):
    args = _parser().parse_args(["demo", "--objective", objective])
    assert args.objective == objective


def test_the_demo_refuses_others(capsys):
    with pytest.raises(SystemExit) as caught:
        _parser().parse_args(["demo", "--objective", "ppo"])
    assert caught.value.code == 2
    assert "invalid choice: 'ppo'" in capsys.readouterr().err
