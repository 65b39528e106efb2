"""What holds for every setting: hypothesis draws rates and settings.

Covers conservation of samples and tokens, shares that add up, the bound with exact
admission, fresh samples at bound 0, AReaL's limit on admissions, more samples with
faster servers, the upper bound on throughput, and that a seed changes nothing where
nothing is random.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from areal_cppo.plan.admission import Dispatcher
from areal_cppo.plan.bounds import most_samples_per_second
from areal_cppo.plan.distributions import Empirical, Fixed, Lognormal
from areal_cppo.plan.rates import (
    Contention,
    Rates,
    ServerRates,
    TrainerRates,
    WeightRates,
)
from areal_cppo.plan.setting import Setting
from areal_cppo.plan.simulation import simulate

EXAMPLES = settings(max_examples=60, deadline=None)


def seconds(most: float) -> st.SearchStrategy[float]:
    return st.floats(0, most, allow_subnormal=False)


@st.composite
def curves(draw) -> tuple[tuple[float, float], ...]:
    """Rising, and each further request adds less."""
    points, rate = [], draw(st.floats(5, 50))
    points.append((1.0, rate))
    gain = rate
    for at in (4.0, 16.0):
        gain *= draw(st.floats(0.1, 1.0))
        rate += gain * (at - points[-1][0])
        points.append((at, rate))
    return tuple(points)


fixed = st.integers(1, 60).map(Fixed)
lengths = st.one_of(
    fixed,
    st.lists(st.integers(1, 200), min_size=1, max_size=5).map(
        lambda values: Empirical(tuple(values))
    ),
    st.builds(Lognormal, st.floats(5, 50), st.floats(0, 1.5), st.integers(60, 300)),
)


@st.composite
def all_rates(draw, lengths=lengths, contention: bool = True) -> Rates:
    slowdown = st.floats(1, 3) if contention else st.just(1.0)
    return Rates(
        server=ServerRates(
            gpus=1,
            slots=draw(st.integers(1, 12)),
            decode=draw(curves()),
            prefill_tokens_per_second=draw(st.floats(50, 5000)),
            request_seconds=draw(seconds(0.5)),
            prefill_seconds=draw(seconds(0.05)),
            prefix_caching=draw(st.booleans()),
        ),
        trainer=TrainerRates(
            gpus=1,
            step_seconds=draw(st.floats(0.01, 5)),
            token_seconds=draw(seconds(0.02)),
            sync_seconds=draw(seconds(0.5)),
        ),
        weights=WeightRates(draw(seconds(3)), draw(seconds(0.5))),
        reward_seconds=draw(seconds(0.5)),
        prompt_tokens=draw(lengths),
        response_tokens=draw(lengths),
        contention=Contention(draw(slowdown), draw(slowdown)),
    )


all_settings = st.builds(
    Setting,
    servers=st.integers(1, 4),
    ranks=st.integers(1, 4),
    batch=st.integers(1, 6),
    group=st.integers(1, 4),
    staleness=st.integers(0, 4),
    steps=st.integers(2, 8),
    warmup=st.integers(0, 1),
    admission=st.sampled_from(("areal", "exact")),
    concurrent=st.one_of(st.none(), st.integers(1, 30)),
    seed=st.integers(0, 100),
)


@EXAMPLES
@given(all_rates(), all_settings)
def test_samples_tokens_and_seconds_are_conserved(rates, setting):
    outcome = simulate(rates, setting)
    groups = outcome.groups
    assert groups["trained"] == setting.steps * setting.batch
    assert groups["started"] == sum(
        groups[name] for name in ("trained", "waiting", "under_way")
    )
    for step in outcome.steps:
        assert step.samples == setting.samples
        assert sum(step.staleness_samples.values()) == step.samples
        assert sum(step.staleness_tokens.values()) == step.response_tokens
        assert step.samples <= step.response_tokens < step.tokens
        assert min(step.staleness_tokens) >= 0
        assert step.start <= step.ready <= step.trained <= step.end
    for one, other in zip(outcome.steps, outcome.steps[1:]):
        assert one.end == other.start
    if not setting.warmup:
        trained = sum(step.response_tokens for step in outcome.steps)
        assert outcome.generated_tokens >= trained
    shares = outcome.trainer_idle, outcome.trainer_busy, outcome.updating
    assert sum(shares) == pytest.approx(1)
    for share in (
        *shares,
        outcome.generation_idle,
        outcome.occupancy,
        sum(outcome.held.values()),
        outcome.interrupted,
        outcome.decode_utilisation,
    ):
        assert -1e-9 <= share <= 1 + 1e-9


@EXAMPLES
@given(all_rates(), all_settings)
def test_with_exact_admission_no_sample_exceeds_the_bound(rates, setting):
    outcome = simulate(rates, replace(setting, admission="exact", warmup=0))
    assert max(outcome.histogram("samples")) <= setting.staleness
    assert outcome.max_staleness <= setting.staleness


@EXAMPLES
@given(all_rates(), all_settings)
def test_at_bound_0_all_is_fresh_and_nothing_is_interrupted(rates, setting):
    sync = replace(setting, staleness=0, warmup=0)
    outcome = simulate(rates, sync)
    assert outcome.max_staleness == 0
    assert outcome.interrupted == 0
    exact = simulate(rates, replace(sync, admission="exact"))
    assert exact.steps == simulate(rates, replace(sync, admission="areal")).steps


@EXAMPLES
@given(all_rates(), all_settings)
def test_admissions_keep_to_the_managers_formula(rates, setting):
    """AReaL's: (bound + version + 1) * batch started in all, `concurrent` at once."""
    seen = []

    def spy(self, *args, original=Dispatcher._admit):
        original(self, *args)
        allowed = (setting.staleness + self.version + 1) * setting.batch
        seen.append(self.started <= allowed and self.under_way <= self.concurrent)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dispatcher, "_admit", spy)
        simulate(rates, setting)
    assert seen and all(seen)


def _faster(rates: Rates, factor: float) -> Rates:
    server = replace(
        rates.server,
        decode=tuple((n, rate * factor) for n, rate in rates.server.decode),
        prefill_tokens_per_second=rates.server.prefill_tokens_per_second * factor,
        prefill_seconds=rates.server.prefill_seconds / factor,
    )
    return replace(rates, server=server)


@EXAMPLES
@given(all_rates(contention=False), all_settings, st.floats(1, 8))
def test_faster_servers_never_take_longer_synchronously(rates, setting, factor):
    sync = replace(setting, staleness=0, warmup=0)
    slow, fast = simulate(rates, sync), simulate(_faster(rates, factor), sync)
    assert fast.seconds <= slow.seconds * (1 + 1e-9)


@EXAMPLES
@given(
    all_rates(contention=False, lengths=fixed),
    all_settings,
    st.floats(1.5, 8),
)
def test_faster_servers_give_more_samples_asynchronously(rates, setting, factor):
    """But for what runs at weight updates, which is prefilled again: a faster server
    may be caught with more of it. That much is allowed for, at the faster rates."""
    setting = replace(setting, warmup=0)
    faster = _faster(rates, factor)
    slow, fast = simulate(rates, setting), simulate(faster, setting)
    tokens = rates.prompt_tokens.value + rates.response_tokens.value
    again = tokens / faster.server.prefill_tokens_per_second
    again += faster.server.prefill_seconds
    running = setting.batch * setting.group * (setting.staleness + 1)
    allowed = setting.steps * running * again
    assert fast.seconds <= slow.seconds * 1.05 + allowed


@EXAMPLES
@given(all_rates(lengths=fixed), all_settings)
def test_throughput_is_never_above_its_upper_bound(rates, setting):
    setting = replace(setting, warmup=0)
    outcome = simulate(rates, setting)
    most = most_samples_per_second(rates, setting)
    assert outcome.samples_per_second <= most * (1 + 1e-9)


@EXAMPLES
@given(all_rates(lengths=fixed), all_settings, st.integers(0, 1000))
def test_the_seed_changes_nothing_where_nothing_is_random(rates, setting, seed):
    outcome = simulate(rates, setting)
    assert simulate(rates, replace(setting, seed=seed)).steps == outcome.steps


@EXAMPLES
@given(all_rates(), all_settings)
def test_the_same_seed_gives_the_same_again(rates, setting):
    assert simulate(rates, setting).as_json() == simulate(rates, setting).as_json()
