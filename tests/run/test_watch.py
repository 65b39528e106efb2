"""What is warned of in a run's metrics, and what is not. Synthetic series only.

Not covered: whether the thresholds suit large models; the runs behind them are of the
tiny one.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log
from random import Random

import pytest

from areal_cppo.run.health import RunWatch
from areal_cppo.run.health_cpl import DIVERGENCE_FLOOR, FEWEST_IMAGES
from areal_cppo.run.health_history import LASTING, WINDOW

LENGTH = 35  # tokens of a response
Course = Callable[[int], float]


def record(step: int, share: float, divergence: float, **more) -> dict:
    """A healthy record but for what is given."""
    return {
        "step": step,
        "cpl_gated_responses": 30.0,
        "cpl_negative_views": 30.0,
        "cpl_negative_views_unchanged": 0.0,
        "cpl_selected_share": share,
        "cpl_selected_per_response": share * LENGTH,
        "cpl_unselected_divergence": divergence,
        "cpl_effective_sample_share": 0.9,
        "cpl_nonfinite_tokens": 0.0,
        "cpl_skipped_micro_batches": 0.0,
        "cpl_skipped_responses": 0.0,
        "update_skipped": 0.0,
        **more,
    }


def series(
    share: Course, divergence: Course, steps: int, seed: int = 0, noise: float = 1.0
) -> list[dict]:
    """Records around two courses: 5 % noise on the share, 30 % on the divergence."""
    random = Random(seed)
    return [
        record(
            step,
            share(step) * (1 + noise * random.gauss(0, 0.05)),
            divergence(step) * exp(noise * random.gauss(0, 0.3)),
        )
        for step in range(1, steps + 1)
    ]


def warned(records: list[dict], watch: RunWatch | None = None) -> list[tuple[int, str]]:
    watch = watch or RunWatch()
    return [(rec["step"], line) for rec in records for line in watch.look(rec)]


def ramp(start: float, end: float, first: int, last: int) -> Course:
    """Constant, then exponential from step `first` to `last`, then constant."""

    def value(step: int) -> float:
        done = min(1.0, max(0.0, (step - first) / (last - first)))
        return start * exp(done * log(end / start))

    return value


def constant(value: float) -> Course:
    return lambda step: value


# The shortcut as it was met: template tokens at .008 nats, then 3.9; here the share
# goes as far as the published rule lets it, .29 to .42.
SHARE, DIVERGENCE = ramp(0.29, 0.42, 20, 60), ramp(0.008, 3.9, 20, 60)


@pytest.mark.parametrize("seed", range(20))
def test_the_shortcut_is_seen_once_and_in_time(seed):
    ((step, line),) = warned(series(SHARE, DIVERGENCE, 300, seed))
    # By step 46 the share has risen by a quarter; half a window later half of the
    # window's steps are past that, and LASTING later it has lasted.
    assert 40 <= step <= 46 + WINDOW + LASTING
    for words in ("selected share of tokens rose from 2", "shortcut", "[anchor]"):
        assert words in line
    assert "\n" not in line


def test_figures_of_the_warning_are_the_medians_of_the_two_windows():
    share, divergence = ramp(0.2, 0.4, 10, 11), ramp(0.1, 0.3, 10, 11)
    ((step, line),) = warned(series(share, divergence, 40, noise=0.0))
    # The windows share no step: the first that is compared ends at step 20.
    assert step == 2 * WINDOW + LASTING - 1
    for words in ("20.0% to 40.0%", "(7.0 to 14.0 per response)", "from 0.1 to 0.3"):
        assert words in line


@pytest.mark.parametrize("seed", range(5))
def test_it_is_said_again_when_twice_as_bad(seed):
    share, divergence = ramp(0.08, 0.24, 15, 75), ramp(0.02, 4.0, 15, 75)
    seen = warned(series(share, divergence, 300, seed, noise=0.5))
    assert 2 <= len(seen) <= 4
    steps = [step for step, _ in seen]
    rises = [share(step) - 0.08 for step in steps]
    for before, after in zip(rises, rises[1:], strict=False):
        assert after > 1.5 * before  # the windows lag behind the course
    assert steps[-1] < 75 + 2 * WINDOW  # silent once nothing rises any more


@pytest.mark.parametrize(
    ("share", "divergence", "times"),
    [
        (0.34, 0.4, 1),  # the share alone
        (0.28, 0.9, 1),  # the divergence alone
        (0.34, 0.9, 2),
    ],
)
def test_only_both_twice_as_bad_is_said_again(share, divergence, times):
    """First 20 % and 0.1 nats, then 26 % and 0.3 nats, then what is given."""
    courses = (0.20, 0.1), (0.26, 0.3), (share, divergence)
    records = [
        record(step, *courses[min(2, (step - 1) // 30)]) for step in range(1, 120)
    ]
    steps = [step for step, _ in warned(records)]
    assert len(steps) == times and 30 < steps[0] <= 60
    assert all(step > 60 for step in steps[1:])


def test_bursts_are_not_the_shortcut():
    """Eight odd steps in thirty: three windows in a row that have enough of them."""
    burst = [(0.40, 1.0) if step % 30 > 21 else (0.29, 0.01) for step in range(300)]
    records = [record(step, *values) for step, values in enumerate(burst, start=1)]
    assert warned(records) == []
    lasting = [(0.40, 1.0) if step % 30 > 15 else (0.29, 0.01) for step in range(300)]
    records = [record(step, *values) for step, values in enumerate(lasting, start=1)]
    assert len(warned(records)) == 1


@pytest.mark.parametrize("share", [0.06, 0.29, 0.45])
@pytest.mark.parametrize("seed", range(40))
def test_noise_alone_is_never_the_shortcut(share, seed):
    # Twice the usual noise: 10 % of the share, and a factor of 1.8 of the divergence.
    noisy = series(constant(share), constant(0.1), 500, seed, noise=2.0)
    assert warned(noisy) == []


@pytest.mark.parametrize(
    ("share", "divergence"),
    [
        (SHARE, constant(0.1)),  # more certain of what it reads
        (constant(0.29), DIVERGENCE),  # looks at the image more
        (SHARE, ramp(0.001, 0.5 * DIVERGENCE_FLOOR, 20, 60)),  # steep, but of nothing
        (ramp(0.29, 0.32, 20, 60), DIVERGENCE),  # within a tenth of its start
        (ramp(0.42, 0.29, 20, 60), DIVERGENCE),  # the one rises, the other falls
        (SHARE, ramp(0.5, 0.65, 20, 60)),  # less than twice
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_one_alone_is_not_the_shortcut(share, divergence, seed):
    assert warned(series(share, divergence, 200, seed)) == []


@pytest.mark.parametrize("seed", range(5))
def test_shorter_responses_are_not_the_shortcut(seed):
    """As many perception tokens of fewer tokens: the share rises all the same."""
    records = series(SHARE, DIVERGENCE, 200, seed)
    for rec in records:
        rec["cpl_selected_per_response"] = 10.0 + 0.1 * (rec["step"] % 7)
    assert warned(records) == []


@pytest.mark.parametrize("seed", range(5))
def test_near_its_ceiling_the_share_cannot_rise_by_a_quarter(seed):
    """At most half of the tokens is selected: .43 to .49 takes most of the room."""
    records = series(ramp(0.43, 0.49, 20, 60), DIVERGENCE, 300, seed, noise=0.3)
    ((step, _),) = warned(records)
    assert 30 <= step <= 80
    roomy = RunWatch(top_fraction=1.0)
    assert warned(records, roomy) == []


def test_steps_without_cpl_take_no_part():
    """Selected share 0 of no tokens is no low: the windows are of CPL's own steps."""
    records = series(SHARE, DIVERGENCE, 300)
    mixed = []
    for rec in records:
        empty = {"step": rec["step"], "cpl_selected_share": 0.0}
        mixed += [empty | {"cpl_selected_per_response": 0.0}, rec]
    assert warned(mixed) == warned(records) != []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_take_no_part(bad):
    records = series(SHARE, DIVERGENCE, 300)
    mixed = []
    for rec in records:
        broken = dict.fromkeys(rec, bad) | {"step": rec["step"]}
        broken |= {"cpl_nonfinite_tokens": 0.0, "update_skipped": 0.0}
        mixed += [broken, rec]
    clean = [line for _, line in warned(records)]
    found = [line for _, line in warned(mixed)]
    assert clean and [line for line in found if "not finite" not in line] == clean


def test_grpo_is_never_warned_of():
    records = [
        {"step": step, "reward": 0.5, "update_skipped": 0.0, "grad_norm": float("nan")}
        for step in range(1, 100)
    ]
    assert warned(records) == []


@pytest.mark.parametrize(
    "key",
    ["cpl_nonfinite_tokens", "cpl_skipped_micro_batches", "cpl_skipped_responses"],
)
def test_cpl_that_is_not_finite_is_said_once(key):
    records = [record(step, 0.3, 0.1) for step in range(1, 10)]
    records[3][key] = 7.0
    records[6][key] = 9.0
    ((step, line),) = warned(records)
    assert step == 4 and "not finite" in line
    if key == "cpl_nonfinite_tokens":
        assert "(7 tokens)" in line


def test_a_skipped_update_is_said_once():
    records = [record(step, 0.3, 0.1, update_skipped=1.0) for step in range(1, 10)]
    ((step, line),) = warned(records)
    assert step == 1 and "an update was skipped" in line


def negatives(step: int, images: float, unchanged: float) -> dict:
    counts = {"cpl_negative_views": images, "cpl_negative_views_unchanged": unchanged}
    return record(step, 0.3, 0.1, **counts)


@pytest.mark.parametrize(("unchanged", "seen"), [(16.0, True), (15.0, False)])
def test_more_than_half_of_the_negatives_equal_their_image(unchanged, seen):
    found = warned([negatives(step, 30.0, unchanged) for step in range(1, 40)])
    assert [step for step, _ in found] == ([1] if seen else [])
    if seen:
        assert "16 of the last 30 images" in found[0][1]


def test_a_few_images_say_nothing_and_old_ones_are_forgotten():
    few = [negatives(1, FEWEST_IMAGES - 1.0, FEWEST_IMAGES - 1.0)]
    healthy = [negatives(step, 30.0, 0.0) for step in range(2, 40)]
    bad = [negatives(step, 30.0, 30.0) for step in range(40, 60)]
    ((step, _),) = warned(few + healthy + bad)
    # Six bad steps of the last ten are more than half.
    assert step == 45


def test_nothing_gated_for_long():
    empty = {"cpl_gated_responses": 0.0}
    almost = [record(step, 0.3, 0.1, **empty) for step in range(1, WINDOW)]
    back = [record(WINDOW, 0.3, 0.1)]
    long = [record(step, 0.3, 0.1, **empty) for step in range(WINDOW + 1, 60)]
    ((step, line),) = warned(almost + back + long)
    assert step == 2 * WINDOW
    assert "nothing for 10 steps in a row" in line and "advantage > 0" in line


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("cpl_text_only_responses", "have no image"),
        ("cpl_unchanged_responses", "no negative view differs"),
    ],
)
def test_nothing_gated_says_why(key, why):
    more = {"cpl_gated_responses": 0.0, key: 12.0}
    records = [record(step, 0.3, 0.1, **more) for step in range(1, 20)]
    ((_, line),) = warned(records)
    assert why in line


def test_few_tokens_with_all_the_say():
    # Nine low steps and a high one: the median is low. Fewer than a window: silence.
    shares = [0.9, *[0.12] * 30]
    records = [
        record(step, 0.3, 0.1, cpl_effective_sample_share=share)
        for step, share in enumerate(shares, start=1)
    ]
    ((step, line),) = warned(records)
    assert step == WINDOW and "12% of its perception tokens" in line


def test_one_step_of_low_weights_is_no_matter():
    records = [
        record(
            step, 0.3, 0.1, cpl_effective_sample_share=0.01 if step % 3 == 0 else 0.9
        )
        for step in range(1, 60)
    ]
    assert warned(records) == []


def inverted(inverted: float, steps: int = 30) -> list[dict]:
    """A margin of 1 nat, and so much of the wrong sign in it."""
    views = {"cpl_margin": 1.0, "cpl_inverted_margin": inverted}
    return [record(step, 0.3, 0.1, **views) for step in range(1, steps + 1)]


def test_positive_views_that_remove_more_than_the_negative():
    # 0.5 of the wrong sign and 1.5 of the right one: a quarter of both.
    ((step, line),) = warned(inverted(0.5))
    assert step == WINDOW
    assert "25% of the difference" in line and "cpl.views.positive" in line


def test_views_that_do_what_they_should():
    assert warned(inverted(0.03)) == warned(inverted(0.0)) == []


def test_a_tau_as_large_as_the_difference_gives_all_tokens_weight():
    assert warned(inverted(0.5), RunWatch(tau=1.0)) == []


def test_views_without_a_difference():
    nothing = {"cpl_margin": 0.0, "cpl_inverted_margin": 0.0}
    records = [record(step, 0.3, 0.1, **nothing) for step in range(1, 30)]
    assert warned(records) == []


def test_two_things_at_once_are_two_lines():
    bad = {"cpl_nonfinite_tokens": 1.0, "update_skipped": 1.0}
    assert len(RunWatch().look(record(1, 0.3, 0.1, **bad))) == 2
