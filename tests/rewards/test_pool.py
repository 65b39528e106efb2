"""Reward processes: time limit, errors, what is sent, and what is left behind.

The functions that they run are in reward_functions.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time

import psutil
import pytest
from PIL import Image

from areal_cppo.rewards.pool import (
    RewardError,
    RewardPool,
    RewardTimeout,
    function_name,
)

HERE = "tests.rewards.reward_functions"


@pytest.fixture
def make_pool():
    pools = []

    def make(name: str, timeout_seconds: float = 30.0, processes: int = 2, **weights):
        pools.append(RewardPool(name, timeout_seconds, processes, weights))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


@pytest.fixture
def children():
    """The processes that the test has started, by number; other tests leave theirs."""

    def alive() -> set[int]:
        return {child.pid for child in psutil.Process().children()}

    others = alive()
    return lambda: alive() - others


def test_the_real_reward(make_pool):
    pool = make_pool("areal_cppo.rewards.reward.reward_fn", answer=0.9, format=0.1)
    arguments = {"prompt": "?", "prompt_ids": [1], "completion_ids": [2], "answer": "½"}
    right = pool.submit(completions=r"<think>x</think>\boxed{0.5}", **arguments)
    long = pool.submit(completions="x" * 200_000 + r"\boxed{0.5}", **arguments)
    assert right.result().value == pytest.approx(1.0)
    assert right.result().parts == {"answer": 1, "format": 1, "judges_differ": 1}
    assert long.result().value == pytest.approx(0.9)  # more than a pipe holds


@pytest.mark.parametrize("how", ["sleep", "hold the interpreter"])
def test_what_hangs_is_ended_in_time_and_replaced(make_pool, children, how):
    pool = make_pool(f"{HERE}.behave", timeout_seconds=1.0, processes=1)
    assert pool.submit(completions="").result().value == 1.0
    before = children()
    start = time.monotonic()
    with pytest.raises(RewardTimeout, match="1 s"):
        pool.submit(completions=how).result()
    assert time.monotonic() - start < 5
    assert pool.submit(completions="").result().value == 1.0  # by another process
    assert not before & children()


def test_one_that_hangs_does_not_hold_up_the_others(make_pool):
    pool = make_pool(f"{HERE}.behave", timeout_seconds=5.0, processes=2)
    hangs = pool.submit(completions="sleep")
    others = [pool.submit(completions="") for _ in range(20)]
    assert [future.result().value for future in others] == [1.0] * 20
    assert not hangs.done()
    with pytest.raises(RewardTimeout):
        hangs.result()


def test_time_in_the_queue_does_not_count(make_pool):
    pool = make_pool(f"{HERE}.behave", timeout_seconds=1.0, processes=1)
    futures = [pool.submit(completions=how) for how in ("sleep", "sleep", "")]
    with pytest.raises(RewardTimeout):
        futures[1].result()
    assert futures[2].result().value == 1.0  # waited two seconds


def test_an_error_is_named_without_its_payload(make_pool, children):
    pool = make_pool(f"{HERE}.behave", processes=1)
    with pytest.raises(RewardError) as error:
        pool.submit(completions="raise").result()
    assert "KeyError in behave, line" in str(error.value)
    assert "payload" not in str(error.value)
    (process,) = children()
    assert pool.submit(completions="").result().value == 1.0
    assert children() == {process}  # it was the function's fault, not the process's


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nan", "the reward is nan"),
        ("none", "the reward is of type NoneType"),
        ("words", "part b is of type str"),
        ("parts", "no part c, which has a weight .reward.weights., among a, b"),
    ],
)
def test_a_reward_that_is_no_number_is_an_error(make_pool, how, message):
    with pytest.raises(RewardError, match=message):
        make_pool(f"{HERE}.behave", c=1.0).submit(completions=how).result()


def test_parts_are_weighed(make_pool):
    reward = make_pool(f"{HERE}.behave", a=0.5).submit(completions="parts").result()
    assert (reward.value, reward.parts) == (0.5, {"a": 1.0, "b": 0.25})


def test_a_process_that_dies_is_replaced(make_pool):
    pool = make_pool(f"{HERE}.behave", processes=1)
    with pytest.raises(RewardError, match="exit code 3"):
        pool.submit(completions="die").result()
    assert pool.submit(completions="").result().value == 1.0


def test_a_process_killed_while_idle_is_replaced(make_pool):
    pool = make_pool(f"{HERE}.process_id", processes=1)
    psutil.Process(int(pool.submit().result().value)).kill()
    with pytest.raises(RewardError, match="exit code -9"):
        pool.submit().result()
    assert pool.submit().result().value > 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_module.f", "no module no_such_module"),
        (f"{HERE}.no_such", "no no_such in tests.rewards.reward_functions"),
    ],
)
def test_a_function_that_is_not_there(make_pool, name, words):
    pool = make_pool(name)
    with pytest.raises(RewardError, match=words):
        pool.submit().result()


def test_what_a_function_prints_is_no_reward(make_pool):
    pool = make_pool(f"{HERE}.behave")
    assert pool.submit(completions="print").result().value == 1.0


def test_the_processes_load_nothing_of_torch(make_pool):
    assert make_pool(f"{HERE}.loads_torch").submit().result().value == 0
    script = """
        import sys
        import areal_cppo.rewards.reward, areal_cppo.rewards.worker
        heavy = {"torch", "transformers", "areal", "numpy"} & set(sys.modules)
        assert not heavy, heavy
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)


def test_an_image_can_not_be_sent(make_pool):
    pool = make_pool(f"{HERE}.behave")
    with pytest.raises(TypeError, match="JSON"):
        pool.submit(completions="", images=[Image.new("RGB", (2, 2))])


def test_processes_are_few_and_gone_at_the_end(make_pool, children):
    pool = make_pool(f"{HERE}.process_id", processes=2)
    found = {pool.submit() for _ in range(50)}
    used = {int(future.result().value) for future in found}
    assert 1 <= len(used) <= 2
    pool.close()
    assert not children() & used


def test_processes_end_with_a_parent_that_is_killed(gone):
    script = """
        import os, signal
        from areal_cppo.rewards.pool import RewardPool
        pool = RewardPool("tests.rewards.reward_functions.process_id", 5.0, 1)
        print(int(pool.submit().result().value), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
    )
    deadline = time.monotonic() + 20
    while not gone(int(done.stdout)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert gone(int(done.stdout))


def test_how_another_process_finds_a_function():
    assert function_name("package.module.f") == "package.module.f"
    assert function_name(os.path.join) == "posixpath.join"
    with pytest.raises(ValueError, match="expected the name of a function"):
        function_name(lambda **kwargs: 1.0)
