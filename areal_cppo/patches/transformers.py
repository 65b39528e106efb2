"""Patches of transformers 5.3.0 to 5.5.3: rotary positions of still images.

AReaL 1.0.4 pins 5.3.0. Later versions are right and left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib.metadata import version
from itertools import repeat
from typing import Any

from packaging.version import Version

from areal_cppo.patches.upstream import patch

_MENDED_IN = Version("5.5.4")
_MODEL = "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl:Qwen2_5_VLModel"


def correct_image_positions() -> None:
    """Mend `Qwen2_5_VLModel` in this process, where it has to be; may be repeated."""
    if Version(version("transformers")) < _MENDED_IN:
        get_vision_position_ids()
        get_rope_index()


@patch(
    f"{_MODEL}.get_vision_position_ids",
    signature="(self, start_position, grid_thw, temp_merge_size=1, "
    "spatial_merge_size=1, time_interval=1, device=None)",
)
def get_vision_position_ids(original: Callable) -> Callable:
    """No time passes in an image of one frame.

    Its temporal position is multiplied by `tokens_per_second` there, as if it were a
    video. SGLang doesn't do so: trainer and server would be two different policies.
    https://github.com/huggingface/transformers/issues/45325
    """

    @wraps(original)
    def get_vision_position_ids(
        self,
        start_position,
        grid_thw,
        temp_merge_size=1,
        spatial_merge_size=1,
        time_interval=1,
        device=None,
    ):
        if int(grid_thw[0]) == 1:
            time_interval = 1
        return original(
            self,
            start_position,
            grid_thw,
            temp_merge_size,
            spatial_merge_size,
            time_interval,
            device,
        )

    return get_vision_position_ids


@patch(
    f"{_MODEL}.get_rope_index",
    signature="(self, input_ids, mm_token_type_ids, image_grid_thw=None, "
    "video_grid_thw=None, second_per_grid_ts=None, attention_mask=None, **kwargs)",
)
def get_rope_index(original: Callable) -> Callable:
    """There is a time step for every image of a batch.

    There is one per column there, so that a batch with more images than columns ends in
    a StopIteration.
    https://github.com/huggingface/transformers/blob/v5.3.0/src/transformers/models/qwen2_5_vl/modeling_qwen2_5_vl.py
    """

    @wraps(original)
    def get_rope_index(self, *args: Any, second_per_grid_ts=None, **kwargs: Any):
        if second_per_grid_ts is None:
            second_per_grid_ts = repeat(1)
        return original(self, *args, second_per_grid_ts=second_per_grid_ts, **kwargs)

    return get_rope_index
