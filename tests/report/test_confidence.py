"""Confidence intervals against numbers worked by hand and from the literature.

Not covered: their coverage by simulation.
"""

import pytest

from areal_cppo.report.confidence import (
    paired_difference_interval,
    unpaired_difference_interval,
    wilson_interval,
)


def test_wilson_by_hand():
    # 8 of 10, z^2 = 3.841459: centre (0.8 + 0.192073) / 1.384146 = 0.716740,
    # half 1.959964 * sqrt(0.016 + 0.00960365) / 1.384146 = 0.226578.
    assert wilson_interval(8, 10) == pytest.approx((0.490162, 0.943318), abs=2e-6)


def test_wilson_at_the_ends():
    low, high = wilson_interval(0, 10)
    assert low == 0
    assert high == pytest.approx(3.841459 / 13.841459, abs=1e-6)
    low, high = wilson_interval(10, 10)
    assert low == pytest.approx(10 / 13.841459, abs=1e-6)
    assert high == pytest.approx(1)


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_wilson_refuses_impossible_counts(successes, n):
    with pytest.raises(ValueError, match="pass counts"):
        wilson_interval(successes, n)


def test_unpaired_matches_newcombe_1998():
    # His example (a): 56/70 - 48/80, method 10: 0.0524 to 0.3339.
    interval = unpaired_difference_interval(48, 80, 56, 70)
    assert interval == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_paired_by_hand():
    # 6 gained and 1 lost of 20: shares 7/22 and 2/22, change 0.227273,
    # half 1.959964 * sqrt((9/22 - 0.0516529) / 22) = 0.249827.
    interval = paired_difference_interval(6, 1, 20)
    assert interval == pytest.approx((-0.022554, 0.477100), abs=2e-5)


def test_paired_is_antisymmetric():
    low, high = paired_difference_interval(30, 4, 100)
    assert paired_difference_interval(4, 30, 100) == pytest.approx((-high, -low))


def test_paired_refuses_impossible_counts():
    with pytest.raises(ValueError, match="found 6 \\+ 5 of 10"):
        paired_difference_interval(6, 5, 10)
