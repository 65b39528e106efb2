"""The simulation against sums worked out by hand.

Covers a server's sharing of its speed, prefill, queue, interruption and caching; the
synchronous loop with one slot, with waves, with two servers and a slow one; contention;
the asynchronous loop where the trainer decides and where generation does.

Not covered: random lengths, for which see the properties.
"""

from __future__ import annotations

import pytest
import simpy

from areal_cppo.plan.admission import Group
from areal_cppo.plan.server import Request, Server
from areal_cppo.plan.setting import Setting
from areal_cppo.plan.simulation import simulate

# Of the rates in conftest.py.
REQUEST, PREFILL, REWARD, UPDATE = 0.5, 0.5, 0.125, 2.0


def train(samples: int) -> float:
    """Seconds of a train step on one rank."""
    return 1.0 + 0.01 * samples * (50 + 40)


class Bench:
    """A server by itself, and when its requests were done."""

    def __init__(self, rates, speed: float = 1.0):
        self.env = simpy.Environment()
        self.done: list[tuple[float, int]] = []
        self.busy: list[int] = []
        self.server = Server(
            self.env, rates.server, speed, self._finished, self.busy.append
        )

    def _finished(self, request: Request) -> None:
        self.done.append((self.env.now, request.left))

    def at(self, seconds: float, call, *arguments) -> None:
        event = self.env.timeout(seconds)
        event.callbacks.append(lambda _: call(*arguments))

    def run(self) -> list[tuple[float, int]]:
        self.env.run()
        return [(pytest.approx(time), tokens) for time, tokens in self.done]


def requests(*lengths: int, prompt: int = 0) -> list[Request]:
    group = Group(0, prompt, len(lengths))
    return [Request(group, length) for length in lengths]


def test_requests_share_the_speed_of_the_server(rates):
    bench = Bench(rates(("server.decode", [[1, 10], [2, 16]])))
    bench.server.submit(requests(10, 20))
    # Both at 8/s until 1.25 s; then the other one's 10 tokens at 10/s.
    assert bench.run() == [(1.25, 10), (2.25, 20)]
    assert bench.busy == [1, -1]


def test_one_that_comes_later_slows_the_others(rates):
    bench = Bench(rates(("server.decode", [[1, 10], [2, 16]])))
    bench.server.submit(requests(18))
    bench.at(1.0, bench.server.submit, requests(12))
    # 10 tokens by 1 s; the other 8 at 8/s by 2 s; the late one has 4 left, at 10/s.
    assert bench.run() == [(2.0, 18), (2.4, 12)]


def test_a_queue_is_served_in_order(rates):
    bench = Bench(rates(("server.slots", 1), ("server.decode", [[1, 10]])))
    bench.server.submit(requests(10, 5, 20))
    assert bench.run() == [(1.0, 10), (1.5, 5), (3.5, 20)]
    bench.server.settle()
    assert bench.server.busy == pytest.approx(3.5)
    assert bench.server.generated == 35


def test_nothing_is_decoded_during_a_prefill(rates):
    bench = Bench(rates(("server.decode", [[1, 10], [2, 10]])))
    bench.server.submit(requests(10))
    bench.at(0.5, bench.server.submit, requests(10, prompt=100))  # 1 s of prefill
    # 5 tokens by 0.5 s, nothing until 1.5 s, 5 each at 5/s, then 5 at 10/s.
    assert bench.run() == [(2.5, 10), (3.0, 10)]


def test_prefill_costs_so_much_a_request_and_so_much_a_token(rates):
    bench = Bench(rates(("server.prefill_seconds", 0.25), ("server.slots", 1)))
    bench.server.submit(requests(10, prompt=100))
    assert bench.run() == [(0.25 + 1.0 + 1.0, 10)]


def test_a_slow_server(rates):
    bench = Bench(rates(), speed=0.5)
    bench.server.submit(requests(10, prompt=100))
    assert bench.run() == [(2 * (1.0 + 1.0), 10)]


@pytest.mark.parametrize(("caching", "seconds"), [(False, 4.0), (True, 1.0)])
def test_a_group_shares_its_prompt_if_prefixes_are_cached(rates, caching, seconds):
    bench = Bench(rates(("server.prefix_caching", caching)))
    bench.server.submit(requests(20, 20, 20, 20, prompt=100))
    assert bench.run() == [(seconds + 4 * 20 / 20, 20)] * 4


def test_an_interrupted_request_keeps_its_tokens_and_prefills_them_again(rates):
    bench = Bench(rates(("server.decode", [[1, 10]]), ("server.slots", 1)))
    (first, second) = requests(30, 10)
    bench.server.submit([first, second])
    taken: list[Request] = []
    bench.at(1.55, lambda: taken.extend(bench.server.stop(version=7)))
    bench.at(3.0, bench.server.resume)
    bench.at(4.0, lambda: bench.server.submit(taken))
    # 15 whole tokens by 1.55 s: 0.15 s to prefill them again, 15 left. The second one
    # was never running: it isn't interrupted.
    assert bench.run() == [(4.0 + 0.15 + 1.5, 15), (4.0 + 0.15 + 1.5 + 1.0, 10)]
    assert (first.done, first.oldest, first.interruptions) == (15, 7, 1)
    assert (second.done, second.oldest, second.interruptions) == (0, None, 0)
    assert first.group.tokens == {7: 15}


def test_slowed_down_for_a_while(rates):
    bench = Bench(rates(("server.decode", [[1, 10]])))
    bench.server.submit(requests(20, prompt=100))
    bench.at(0.5, bench.server.slow_down, 2.0)  # half a second of prefill is left
    bench.at(2.5, bench.server.slow_down, 1.0)
    # Prefilled at 1.5 s; 5 tokens by 2.5 s; 15 at 10/s.
    assert bench.run() == [(4.0, 20)]


def test_one_slot_one_sample_synchronously(rates):
    outcome = simulate(
        rates(("server.slots", 1)), Setting(1, 1, 1, 1, staleness=0, steps=3)
    )
    step = REQUEST + PREFILL + 40 / 10 + REWARD + train(1) + UPDATE
    assert outcome.seconds == pytest.approx(3 * step)
    assert outcome.step_seconds == pytest.approx(step)
    assert outcome.trainer_busy == pytest.approx(train(1) / step)
    assert outcome.updating == pytest.approx(UPDATE / step)
    assert outcome.trainer_idle == pytest.approx(
        (REQUEST + PREFILL + 4 + REWARD) / step
    )
    assert outcome.generation_idle == pytest.approx(
        (REQUEST + REWARD + train(1) + UPDATE) / step
    )
    assert outcome.generation_paused == pytest.approx(UPDATE / step)
    assert outcome.max_staleness == 0


def test_waves_of_a_batch_that_is_larger_than_the_slots(rates):
    outcome = simulate(rates(), Setting(1, 1, 3, 4, staleness=0, steps=2))
    wave = 4 * PREFILL + 4 * 40 / 20
    step = REQUEST + 3 * wave + REWARD + train(12) + UPDATE
    assert outcome.step_seconds == pytest.approx(step)
    assert outcome.occupancy == pytest.approx(3 * wave / step)
    assert outcome.decode_utilisation == pytest.approx(12 * 40 / 20 / step)


def test_two_servers_take_groups_in_turn_and_the_slow_one_decides(rates):
    wave = 4 * PREFILL + 4 * 40 / 20
    for speeds, slowest in (({}, wave), ({1: 0.5}, 2 * wave)):
        setting = Setting(2, 1, 2, 4, staleness=0, steps=2, speeds=speeds)
        step = REQUEST + slowest + REWARD + train(8) + UPDATE
        assert simulate(rates(), setting).step_seconds == pytest.approx(step)


def test_ranks_share_the_tokens_but_not_a_sequence(rates):
    shared = simulate(rates(), Setting(1, 2, 1, 4, staleness=0, steps=1)).steps[0]
    seconds = 1.0 + 0.01 * 4 * 90 / 2 + 0.25
    assert shared.trained - shared.ready == pytest.approx(seconds)
    alone = simulate(rates(), Setting(1, 8, 1, 4, staleness=0, steps=1)).steps[0]
    seconds = 1.0 + 0.01 * 90 + 3 * 0.25
    assert alone.trained - alone.ready == pytest.approx(seconds)


def test_steady_state_where_the_trainer_decides(rates):
    slow = rates(("trainer.step_seconds", 100.0))
    setting = Setting(2, 1, 2, 4, staleness=2, steps=12, warmup=6)
    outcome = simulate(slow, setting)
    assert outcome.step_seconds == pytest.approx(train(8) + 99.0 + UPDATE)
    assert outcome.trainer_idle == pytest.approx(0.0, abs=1e-9)
    # Started as soon as the bound allows, trained as late as it allows.
    assert outcome.histogram("samples") == {2: 6 * 8}
    assert outcome.interrupted == 0


def test_steady_state_where_generation_decides(rates):
    """One slot never idle: a sample every prefill + 40 / 10 s of the servers' time."""
    quick = rates(
        ("server.slots", 1),
        ("trainer", {"gpus": 1, "step_seconds": 1e-9, "token_seconds": 0}),
        ("weights.update_seconds", 0.0),
        ("server.request_seconds", 0.0),
        ("reward_seconds", 0.0),
    )
    setting = Setting(1, 1, 4, 1, staleness=4, steps=20, warmup=10)
    outcome = simulate(quick, setting)
    # An update interrupts the one request that runs, just begun: no token is lost.
    assert outcome.samples_per_second == pytest.approx(1 / 4.5, rel=0.03)
    assert outcome.generation_idle == pytest.approx(0.0, abs=1e-9)


def test_contention_slows_both_while_both_work(rates):
    shared = rates(
        ("contention", {"server_slowdown": 2.0, "trainer_slowdown": 3.0}),
        ("server.slots", 1),
        ("server.decode", [[1, 10]]),
        ("server.request_seconds", 0.0),
        ("reward_seconds", 0.0),
        ("prompt_tokens.value", 1),
        ("response_tokens.value", 39),
        ("trainer", {"gpus": 1, "step_seconds": 10, "token_seconds": 0}),
        ("server.prefill_tokens_per_second", 1e12),
    )
    setting = Setting(1, 1, 1, 1, staleness=1, steps=1, concurrent=1)
    step = simulate(shared, setting).steps[0]
    assert step.ready == pytest.approx(3.9)
    # A second sample was queued at 1 s and starts at 3.9 s. It takes 7.8 s, in which
    # the trainer does 2.6 s of its 10.
    assert step.trained - step.ready == pytest.approx(7.8 + (10 - 2.6))
    # At bound 0 nothing is generated meanwhile.
    setting = Setting(1, 1, 1, 1, staleness=0, steps=1)
    step = simulate(shared, setting).steps[0]
    assert step.trained - step.ready == pytest.approx(10)
