"""The negative views that a detection study compares unless it names its own."""

from __future__ import annotations

from typing import Any

# Each as `actor.cpl.views.negative` takes it. Sides and scales are shares of the
# picture's side; strengths are named where they are not the published ones.
VIEWS: dict[str, list[dict[str, Any]]] = {
    "noise_patches": [{"name": "noise_patches"}],
    "noise_patches_15-30": [{"name": "noise_patches", "side": [0.15, 0.30]}],
    "zoom_crop": [{"name": "zoom_crop"}],
    "zoom_crop_30-40": [{"name": "zoom_crop", "scale": [0.3, 0.4]}],
    "black_squares_40": [{"name": "black_squares", "coverage": 0.4}],
    "black_squares_80": [{"name": "black_squares", "coverage": 0.8}],
    "blur_3": [{"name": "gaussian_blur", "kernel_size": 13, "sigma": 3.0}],
    "blur_10": [{"name": "gaussian_blur", "kernel_size": 41, "sigma": 10.0}],
    "blank_50": [{"name": "blank", "strength": 0.5}],
    "blank": [{"name": "blank"}],
    "noise_50": [{"name": "noise", "strength": 0.5}],
}
