"""Patches of SGLang 0.5.10.post1, made in the processes of a server."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from areal_cppo.patches.upstream import NOTHING, expect, expect_inside, patch

_HTTP = "sglang.srt.entrypoints.http_server"
_MULTIMODAL = "sglang.srt.managers.mm_utils"
_SCHEDULER = "sglang.srt.managers.scheduler:Scheduler"
_PROCESSOR = (
    "(hf_config, server_args, processor, transport_mode, model_config=None, **kwargs)"
)


@patch("sglang.srt.utils.common:_get_fastapi_request_path", signature="(request)")
def get_fastapi_request_path(original: Callable) -> Callable:
    """It also answers for requests to routers that were included.

    With metrics on, SGLang asks the route of each request for its path, and one that
    was included has none in FastAPI 0.137 and later: its requests, the heartbeat's
    /v1/loads among them, would be answered with 500.
    https://github.com/sgl-project/sglang/issues/28887
    """

    @wraps(original)
    def path_of_any(request: Any) -> tuple[str, bool]:
        try:
            return original(request)
        except AttributeError:
            return request.url.path, True

    return path_of_any


@patch(f"{_HTTP}:requests")
def http_server_requests(original: Any, wrapped: Callable[[Any], Any]) -> Any:
    """The module `requests` is `wrapped` there, so that a gate knows SGLang's warm-up.

    SGLang sends itself a request before it answers /health. Were it sent otherwise, the
    gate would refuse it and the server would not start.
    https://github.com/sgl-project/sglang/blob/v0.5.10.post1/python/sglang/srt/entrypoints/http_server.py
    """
    expect_inside(f"{_HTTP}:_execute_server_warmup", "requests", "post")
    return wrapped(original)


@patch(f"{_SCHEDULER}.cppo_compare_weights", signature=NOTHING)
def scheduler_method(original: None, method: Callable) -> Callable:
    """`Scheduler.cppo_compare_weights` is there, to be called by name over RPC.

    https://github.com/sgl-project/sglang/blob/v0.5.10.post1/python/sglang/srt/managers/scheduler.py
    """
    expect(f"{_SCHEDULER}.handle_rpc_request", "(self, recv_req)")
    expect_inside(f"{_SCHEDULER}.handle_rpc_request", "getattr", "method", "parameters")
    return method


@patch(
    "sglang.srt.model_executor.model_runner:ModelRunner.update_weights_from_distributed",
    signature="(self, names, dtypes, shapes, group_name, load_format=None)",
)
def update_weights_from_distributed(
    original: Callable, recording: Callable[[Callable], Callable]
) -> Callable:
    """`recording` of it sees every part of an update over the wire.

    SGLang's loaders pass over names that they don't know, without a word.
    https://github.com/sgl-project/sglang/blob/v0.5.10.post1/python/sglang/srt/model_executor/model_runner.py
    """
    return recording(original)


@patch(f"{_SCHEDULER}.flush_cache", signature="(self)")
def flush_cache(original: Callable) -> Callable:
    """It also empties the cache of images, as SGLang does of prompts after an update.

    What the vision tower made of an image would outlive the tower's weights.
    https://github.com/sgl-project/sglang/pull/36468
    """
    for way in ("disk", "distributed"):
        expect_inside(f"{_SCHEDULER}.update_weights_from_{way}", "flush_cache")
    expect(f"{_MULTIMODAL}:embedding_cache")

    @wraps(original)
    def flush_all(scheduler: Any) -> bool:
        from sglang.srt.managers import mm_utils

        flushed = original(scheduler)
        if flushed and mm_utils.embedding_cache is not None:
            mm_utils.embedding_cache.clear()
        return flushed

    return flush_all


@patch(f"{_SCHEDULER}.get_new_batch_prefill", signature="(self)")
def get_new_batch_prefill(
    original: Callable, sharing: Callable[[Callable], Callable]
) -> Callable:
    """`sharing` of it chooses which requests are shown to it.

    Of equal prompts that wait together SGLang computes each.
    https://github.com/sgl-project/sglang/blob/v0.5.10.post1/python/sglang/srt/managers/schedule_policy.py
    """
    place = f"{_SCHEDULER}._get_new_batch_prefill_raw"
    expect_inside(place, "waiting_queue", "batch_is_full", "chunked_req")
    return sharing(original)


@patch("sglang.srt.managers.tokenizer_manager:get_mm_processor", signature=_PROCESSOR)
def get_mm_processor(
    original: Callable, sharing: Callable[[Callable], Callable]
) -> Callable:
    """What it returns processes images by `sharing` of its own method.

    https://github.com/sgl-project/sglang/blob/v0.5.10.post1/python/sglang/srt/managers/tokenizer_manager.py
    """
    tokenize = "sglang.srt.managers.tokenizer_manager:TokenizerManager"
    expect_inside(f"{tokenize}._tokenize_one_request", "process_mm_data_async")

    @wraps(original)
    def sharing_processor(*args: Any, **kwargs: Any) -> Any:
        processor = original(*args, **kwargs)
        processor.process_mm_data_async = sharing(processor.process_mm_data_async)
        return processor

    return sharing_processor
