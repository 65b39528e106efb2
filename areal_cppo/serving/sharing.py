"""What the requests of a group have in common is computed once by a server.

A group asks the same prompt several times at once. SGLang 0.5.10.post1 keeps what it
has computed of prompts (its radix cache) and of images, but:

- It processes an image anew for each request, in the thread that answers all of them,
  and hashes it in the one that feeds the GPU. `ProcessedImages`: once.
- It computes a prompt once per request that waits at the same time, since none of them
  is in the cache yet. `leaders`: one of them goes ahead.
- At a weight update it empties the cache of prompts only. `patches.sglang.flush_cache`:
  that of images, too.

This module is imported by SGLang's processes.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from functools import wraps
from typing import Any

# A request that waits until another one with the same beginning was computed saves so
# many tokens at least; it waits for one forward pass.
WORTH_WAITING = 32

# Of processed images: 20 of 1,280 tokens are 500 MB.
_MOST_BYTES = 2**30


def share_prompts(get_new_batch: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`Scheduler.get_new_batch_prefill`, to which only `leaders` are shown."""

    @wraps(get_new_batch)
    def get_new_batch_prefill(scheduler: Any) -> Any:
        waiting = scheduler.waiting_queue
        full = scheduler.running_batch.batch_is_full
        if full or not waiting or scheduler.server_args.disable_radix_cache:
            return get_new_batch(scheduler)
        scheduler.waiting_queue, held = leaders(
            waiting, _being_computed(scheduler), _cached(scheduler.tree_cache)
        )
        try:
            return get_new_batch(scheduler)
        finally:
            scheduler.waiting_queue += held

    return get_new_batch_prefill


def leaders(
    waiting: Iterable[Any], computed: Iterable[Any], cached: Callable[[Any], int]
) -> tuple[list[Any], list[Any]]:
    """Requests that may be computed now, and those for whom it is worth to wait.

    Parameters
    ----------
    waiting
        SGLang's `Req`s, in their order.
    computed
        Those that are being computed: not all of their tokens are in the cache yet.
    cached
        Of how many of a request's tokens, from its first, the cache has what it takes.
    """
    coming = [(request.extra_key, _ids(request)) for request in computed]
    first, held = [], []
    for request in waiting:
        ids = _ids(request)
        same = (other for key, other in coming if key == request.extra_key)
        soon = max((_common(ids, other) for other in same), default=0)
        if soon >= WORTH_WAITING and soon - cached(request) >= WORTH_WAITING:
            held.append(request)
        else:
            first.append(request)
            coming.append((request.extra_key, ids))
    return first, held


def _ids(request: Any) -> list[int]:
    """Its tokens; an image's are numbers made of the image's hash."""
    return request.origin_input_ids + request.output_ids


def _common(one: list[int], other: list[int]) -> int:
    """Tokens that two have in common, from the first."""
    for place, (a, b) in enumerate(zip(one, other)):
        if a != b:
            return place
    return min(len(one), len(other))


def _cached(cache: Any) -> Callable[[Any], int]:
    """By SGLang's cache of prompts, which keeps adapters (`extra_key`) apart."""
    from sglang.srt.mem_cache.base_prefix_cache import MatchPrefixParams
    from sglang.srt.mem_cache.radix_cache import RadixKey

    def count(request: Any) -> int:
        key = RadixKey(_ids(request), request.extra_key)
        return len(cache.match_prefix(MatchPrefixParams(key)).device_indices)

    return count


def _being_computed(scheduler: Any) -> list[Any]:
    """Requests whose prompts' pass has begun, and may not have ended."""
    last, chunked = scheduler.last_batch, scheduler.chunked_req
    found = [] if chunked is None else [chunked]
    if scheduler.enable_overlap and last is not None and last.forward_mode.is_extend():
        found += last.reqs
    return found


class ProcessedImages:
    """SGLang's `process_mm_data_async`, which remembers what became of images.

    A request with the images and the token ids of an earlier one gets what that one
    got. So does one that goes on with more tokens, as after a weight update: SGLang
    itself would decode and encode its ids, and a sampled response need not come back
    as the same tokens. Its positions are those of text that follows.

    Weights play no part in it.

    Parameters
    ----------
    process
        A method of a processor of SGLang's.
    most_bytes
        Of what is remembered; what was not asked for longest goes first.
    """

    def __init__(
        self, process: Callable[..., Awaitable[Any]], most_bytes: int = _MOST_BYTES
    ):
        self._process = process
        self._most_bytes = most_bytes
        self._bytes = 0
        self._known: OrderedDict[tuple[str, ...], tuple[list[int], Any, int]]
        self._known = OrderedDict()

    async def __call__(
        self, *, image_data: Any, audio_data: Any, input_text: Any, **more: Any
    ) -> Any:
        """SGLang's `MultimodalProcessorOutput`, its items hashed."""
        asked = {"image_data": image_data, "audio_data": audio_data}
        asked |= {"input_text": input_text, **more}
        if audio_data or not _are(image_data, str) or not _are(input_text, int):
            return await self._process(**asked)
        images, ids = tuple(image_data), list(input_text)
        if images in self._known:
            self._known.move_to_end(images)
            start, made, _ = self._known[images]
            if _goes_on(start, ids, made.im_token_id):
                return _continued(made, ids)
        made = await self._process(**asked)
        for item in made.mm_items:
            item.set_pad_value()
        if made.input_ids == ids and ids[-1] != made.im_token_id:
            self._remember(images, ids, made)
            return _continued(made, ids)
        return made

    def _remember(self, images: tuple[str, ...], ids: list[int], made: Any) -> None:
        size = sum(item.feature.nbytes for item in made.mm_items)
        size += sum(map(len, images))
        _, _, before = self._known.pop(images, (None, None, 0))
        self._known[images] = ids, made, size
        self._bytes += size - before
        while self._bytes > self._most_bytes:
            _, (_, _, size) = self._known.popitem(last=False)
            self._bytes -= size


def _are(values: Any, kind: type) -> bool:
    return bool(values) and all(isinstance(value, kind) for value in values)


def _goes_on(start: list[int], ids: list[int], image: int) -> bool:
    return ids[: len(start)] == start and image not in ids[len(start) :]


def _continued(made: Any, ids: list[int]) -> Any:
    """A copy of what was made, for `ids` that go on; whoever gets it may change it."""
    from torch import arange, cat

    made = copy.copy(made)
    made.mm_items = [copy.copy(item) for item in made.mm_items]
    made.input_ids = list(ids)
    positions = made.mrope_positions
    if positions is not None:  # [3, P], of text alike in all three
        more = arange(1, len(ids) - positions.shape[1] + 1, device=positions.device)
        made.mrope_positions = cat([positions, positions[:, -1:] + more], dim=1)
    return made
