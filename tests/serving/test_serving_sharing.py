"""What requests of a group share: who goes ahead, what is remembered of images, and
that a real server computes a prompt once.

That nothing of it outlives the weights: tests/conformance/test_protocol_weights.py.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from os.path import commonprefix
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from areal_cppo.serving import sharing
from areal_cppo.serving.sharing import (
    WORTH_WAITING,
    ProcessedImages,
    leaders,
    share_prompts,
)
from areal_cppo.tasks.responses import QUESTION

IMAGE = 4  # its token
LONG_QUESTION = " ".join([QUESTION] * 8)


@dataclass
class Request:
    origin_input_ids: list[int]
    output_ids: list[int] = field(default_factory=list)
    extra_key: str | None = None

    @property
    def ids(self) -> list[int]:
        return self.origin_input_ids + self.output_ids


def a_cache(*known: list[int]):
    """How much of a request is in `known`."""
    return lambda request: max((common(request.ids, each) for each in known), default=0)


def common(one: list[int], other: list[int]) -> int:
    return len(commonprefix([one, other]))


def prompt(first: int, length: int = 40) -> list[int]:
    return [first] * length


def test_one_of_each_group_goes_ahead():
    waiting = [Request(prompt(k)) for k in (7, 7, 8, 7, 8, 9)]
    first, held = leaders(waiting, [], a_cache())
    assert first == [waiting[0], waiting[2], waiting[5]]
    assert held == [waiting[1], waiting[3], waiting[4]]


def test_nobody_waits_for_what_is_there():
    """A long beginning that all prompts have holds up nobody, once it is computed."""
    everyones = prompt(1, 100)
    waiting = [Request(everyones + prompt(k)) for k in (7, 7, 8)]
    first, _ = leaders(waiting, [], a_cache())
    assert first == waiting[:1]
    first, held = leaders(waiting, [], a_cache(everyones))
    assert (first, held) == ([waiting[0], waiting[2]], [waiting[1]])
    first, held = leaders(waiting, [], a_cache(*(r.ids for r in waiting)))
    assert (first, held) == (waiting, [])


def test_a_prompt_on_its_way_is_waited_for():
    first, held = leaders([Request(prompt(7))], [Request(prompt(7))], a_cache())
    assert (first, len(held)) == ([], 1)


def test_interrupted_responses_share_their_prompt():
    waiting = [Request(prompt(7) + [20 + k] * 9) for k in range(3)]
    first, held = leaders(waiting, [], a_cache())
    assert (first, held) == (waiting[:1], waiting[1:])


def test_adapters_share_nothing():
    waiting = [Request(prompt(7), extra_key=key) for key in ("a", "b", "a")]
    first, held = leaders(waiting, [], a_cache())
    assert (first, held) == (waiting[:2], waiting[2:])


ids = st.lists(st.integers(1, 2), min_size=1, max_size=3).map(
    lambda runs: [token for token in runs for _ in range(WORTH_WAITING - 8)]
)


@given(st.lists(ids, max_size=6), st.lists(ids, max_size=2), st.lists(ids, max_size=2))
def test_whoever_waits_saves_enough(waiting, coming, known):
    requests = [Request(each) for each in waiting]
    first, held = leaders(requests, map(Request, coming), a_cache(*known))
    seen = list(coming)
    for request in requests:
        there = max((common(request.ids, each) for each in known), default=0)
        soon = max((common(request.ids, each) for each in seen), default=0)
        waits = soon - there >= WORTH_WAITING
        assert any(request is each for each in (held if waits else first))
        if not waits:
            seen.append(request.ids)
    assert len(first) + len(held) == len(requests)


class TestScheduler:
    """Of which no request may be lost, whatever becomes of a batch."""

    @pytest.fixture(autouse=True)
    def nothing_cached(self, monkeypatch):
        monkeypatch.setattr(sharing, "_cached", lambda cache: a_cache())

    def scheduler(self, **changes):
        settings = {
            "waiting_queue": [Request(prompt(7)) for _ in range(3)],
            "running_batch": SimpleNamespace(batch_is_full=False),
            "server_args": SimpleNamespace(disable_radix_cache=False),
            "tree_cache": None,
            "last_batch": None,
            "chunked_req": None,
            "enable_overlap": True,
        }
        return SimpleNamespace(**settings | changes)

    def shown(self, **changes) -> int:
        """How many requests a batch is made of."""
        count = share_prompts(lambda scheduler: len(scheduler.waiting_queue))
        return count(self.scheduler(**changes))

    def test_followers_come_back(self):
        scheduler = self.scheduler()
        leader, *followers = scheduler.waiting_queue

        def take_all(scheduler):
            taken, scheduler.waiting_queue = scheduler.waiting_queue, []
            return taken

        assert share_prompts(take_all)(scheduler) == [leader]
        assert scheduler.waiting_queue == followers

    def test_also_after_an_error(self):
        scheduler = self.scheduler()

        def fail(scheduler):
            raise RuntimeError

        with pytest.raises(RuntimeError):
            share_prompts(fail)(scheduler)
        assert len(scheduler.waiting_queue) == 3

    @pytest.mark.parametrize("extend", [True, False])
    @pytest.mark.parametrize("overlap", [True, False])
    def test_a_pass_that_runs_is_waited_for(self, extend, overlap):
        """Only where the next is prepared meanwhile: else it is in the cache."""
        mode = SimpleNamespace(is_extend=lambda: extend)
        batch = SimpleNamespace(forward_mode=mode, reqs=[Request(prompt(7))])
        shown = self.shown(last_batch=batch, enable_overlap=overlap)
        assert shown == (0 if extend and overlap else 1)

    def test_a_prompt_computed_in_parts_is_waited_for(self):
        assert self.shown(chunked_req=Request(prompt(7))) == 0

    def test_without_a_cache_nobody_waits(self):
        off = SimpleNamespace(disable_radix_cache=True)
        assert self.shown(server_args=off) == 3

    def test_a_full_server_is_left_alone(self):
        assert self.shown(running_batch=SimpleNamespace(batch_is_full=True)) == 3


class Item:
    """SGLang's, of one image."""

    def __init__(self, feature):
        self.feature, self.hash = feature, None

    def set_pad_value(self):
        self.hash = self.hash or float(self.feature.sum())


class Processor:
    """Counts how often it is asked; an image's name is its only pixel."""

    def __init__(self, canonical=lambda ids: ids):
        self.asked = 0
        self.canonical = canonical

    async def process(self, image_data, audio_data, input_text, request_obj):
        self.asked += 1
        n = len(input_text)
        return SimpleNamespace(
            mm_items=[Item(torch.tensor([float(name)])) for name in image_data],
            input_ids=self.canonical(list(input_text)),
            im_token_id=IMAGE,
            mrope_positions=torch.arange(n).expand(3, n) - 5,  # an image takes fewer
            mrope_position_delta=torch.tensor([[-5]]),
        )


def ask(shared, images, ids, audio=None):
    made = shared(image_data=images, audio_data=audio, input_text=ids, request_obj=None)
    return asyncio.run(made)


class TestImages:
    prompt = [2, IMAGE, IMAGE, 3, 30, 31]

    def test_a_group_is_processed_once(self):
        processor = Processor()
        shared = ProcessedImages(processor.process)
        first, second = (ask(shared, ["1"], self.prompt) for _ in range(2))
        assert processor.asked == 1
        assert first.input_ids == second.input_ids == self.prompt
        assert torch.equal(first.mrope_positions, second.mrope_positions)
        assert first.mm_items[0].feature is second.mm_items[0].feature
        assert first.mm_items[0].hash == second.mm_items[0].hash == 1.0

    def test_what_one_request_changes_the_next_does_not_see(self):
        shared = ProcessedImages(Processor().process)
        made = ask(shared, ["1"], self.prompt)
        made.mm_items.pop().feature = None
        made.input_ids.append(9)
        again = ask(shared, ["1"], self.prompt)
        assert again.input_ids == self.prompt
        assert again.mm_items[0].feature is not None

    def test_a_response_goes_on_as_it_was_sampled(self):
        """SGLang would encode its text anew: here as one token fewer."""
        processor = Processor(lambda ids: ids[:6] + ids[7:])
        shared = ProcessedImages(processor.process)
        ask(shared, ["1"], self.prompt)
        made = ask(shared, ["1"], [*self.prompt, 40, 41])
        assert processor.asked == 1
        assert made.input_ids == [*self.prompt, 40, 41]
        assert made.mrope_positions[0].tolist() == [-5, -4, -3, -2, -1, 0, 1, 2]

    @pytest.mark.parametrize(
        "images, ids",
        [
            (["2"], prompt),
            (["1", "1"], prompt),
            (["1"], [*prompt[:-1], 32]),
            (["1"], prompt[:-1]),
            (["1"], [*prompt, IMAGE]),
        ],
    )
    def test_another_request_is_processed_anew(self, images, ids):
        processor = Processor()
        shared = ProcessedImages(processor.process)
        ask(shared, ["1"], self.prompt)
        assert ask(shared, images, ids).input_ids == ids
        assert processor.asked == 2

    @pytest.mark.parametrize(
        "images, ids, audio", [([], "text", None), (["1"], [2], 1)]
    )
    def test_what_it_does_not_know_is_sglangs(self, images, ids, audio):
        processor = Processor()
        shared = ProcessedImages(processor.process)
        for _ in range(2):
            ask(shared, images, ids, audio)
        assert processor.asked == 2

    def test_ids_that_come_back_otherwise_are_not_remembered(self):
        processor = Processor(lambda ids: ids[:-1])
        shared = ProcessedImages(processor.process)
        for _ in range(2):
            assert ask(shared, ["1"], self.prompt).input_ids == self.prompt[:-1]
        assert processor.asked == 2

    def test_the_oldest_is_forgotten_first(self):
        processor = Processor()
        shared = ProcessedImages(processor.process, most_bytes=2 * (4 + 1))
        for name in ("1", "2", "1", "3", "1", "2"):  # two have room
            ask(shared, [name], self.prompt)
        assert processor.asked == 4


@pytest.mark.sglang
@pytest.mark.slow
def test_a_group_is_computed_once(sglang_server):
    """Six groups of eight at once: of each, seven requests find all of their prompt but
    its last token. SGLang alone computes that of the last groups 6 to 8 times."""
    shades = [Image.new("RGB", (112, 112), (40 * k, 90, 150)) for k in range(6)]
    groups = [sglang_server.prompt([shade], LONG_QUESTION) for shade in shades]
    asked = [group for group in groups for _ in range(8)]
    replies = sglang_server.generate_all(asked, max_new_tokens=8)
    cached = [reply.raw["meta_info"]["cached_tokens"] for reply in replies]
    for k, group in enumerate(groups):
        first, *others = sorted(cached[8 * k : 8 * k + 8])
        assert first < WORTH_WAITING <= len(group.ids) - 1
        assert others == [len(group.ids) - 1] * 7
