"""Rotary positions of still images in Qwen2.5-VL, as the model was trained with them.

transformers 5.3.0 to 5.5.3 (AReaL 1.0.4 pins 5.3.0) multiplies the temporal position of
a still image by `tokens_per_second`, as if it were a video (its issue 45325). SGLang
does not, so trainer and server would be two different policies. The same versions run
out of time steps when a batch holds more images than columns. Both are mended here, and
left alone where they are right.
"""

from __future__ import annotations

from itertools import repeat

import transformers
from packaging.version import Version
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

_MENDED_IN = Version("5.5.4")
_MARK = "_areal_cppo_positions"


def correct_image_positions() -> None:
    """Mend `Qwen2_5_VLModel` in this process. May be called again."""
    if Version(transformers.__version__) >= _MENDED_IN:
        return
    if _MARK in vars(Qwen2_5_VLModel):
        return
    vision_positions = Qwen2_5_VLModel.get_vision_position_ids
    rope_index = Qwen2_5_VLModel.get_rope_index

    def get_vision_position_ids(
        self,
        start_position,
        grid_thw,
        temp_merge_size=1,
        spatial_merge_size=1,
        time_interval=1,
        device=None,
    ):
        if int(grid_thw[0]) == 1:  # one frame: no time passes
            time_interval = 1
        return vision_positions(
            self,
            start_position,
            grid_thw,
            temp_merge_size,
            spatial_merge_size,
            time_interval,
            device,
        )

    def get_rope_index(self, *args, second_per_grid_ts=None, **kwargs):
        if second_per_grid_ts is None:
            second_per_grid_ts = repeat(1)  # not one per column, which may be too few
        return rope_index(self, *args, second_per_grid_ts=second_per_grid_ts, **kwargs)

    Qwen2_5_VLModel.get_vision_position_ids = get_vision_position_ids
    Qwen2_5_VLModel.get_rope_index = get_rope_index
    setattr(Qwen2_5_VLModel, _MARK, True)
