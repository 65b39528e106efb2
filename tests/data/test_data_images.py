"""Pictures: every mode and shape as the model should see it, and the same size and
pixels as from the model's own processor.

Not covered: formats that Pillow opens and no dataset here uses.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl_fast import (
    Qwen2VLImageProcessorFast,
)

from areal_cppo.config.blocks import DataConfig
from areal_cppo.data.images import (
    BrokenImage,
    ExtremeAspectRatio,
    MissingImage,
    ResizeRule,
    load_image,
)
from areal_cppo.errors import UserError
from tests.data.problem_files import build_processor, encoded, picture

SIZES = [(1, 1), (28, 28), (29, 57), (84, 84), (300, 41), (641, 480), (3000, 2000)]
SIZES += [(5000, 30), (30, 5000), (1400, 7), (2000, 10), (27, 1)]


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_same_size_and_pixels_as_from_the_models_own_processor(processor, size):
    """And what the processor gets from here it leaves as it is.

    It has to be told where the colours are in a picture one pixel high, which it would
    take for one of one channel; after resizing it knows.
    """
    original = picture(*size)
    resized = ResizeRule.of(processor, DataConfig()).apply(original)
    direct = processor.image_processor(
        images=[original], return_tensors="pt", input_data_format="channels_last"
    )
    through = processor.image_processor(images=[resized], return_tensors="pt")
    assert torch.equal(through["image_grid_thw"], direct["image_grid_thw"])
    assert torch.equal(through["pixel_values"], direct["pixel_values"])
    _, rows, columns = direct["image_grid_thw"][0].tolist()
    assert resized.size == (columns * 14, rows * 14)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_torch_processor_changes_nothing(size):
    """transformers' other processor interpolates a little differently, up to 2 levels
    of 255; of a resized picture it leaves each pixel."""
    processor = build_processor(image_processor_class=Qwen2VLImageProcessorFast)
    rule = ResizeRule.of(processor, DataConfig())
    original = picture(*size)
    resized = rule.apply(original)
    own = processor.image_processor
    direct, through, plain = (
        own(images=[image], return_tensors="pt", **options)
        for image, options in (
            (original, {}),
            (resized, {}),
            (resized, {"do_resize": False}),
        )
    )
    assert torch.equal(through["image_grid_thw"], direct["image_grid_thw"])
    assert torch.equal(through["pixel_values"], plain["pixel_values"])
    levels = (through["pixel_values"] - direct["pixel_values"]) * 255
    assert levels.abs().max() * min(own.image_std) <= 2.01


@given(
    st.integers(1, 4000),
    st.integers(1, 4000),
    st.sampled_from([28, 32]),
    st.integers(32 * 32, 300_000),
    st.integers(4, 400),
)
def test_a_resized_picture_is_never_resized_again(width, height, factor, low, ratio):
    """Whatever the limits; or it is refused, and then it is thin."""
    rule = ResizeRule(factor, low, low * ratio, Image.Resampling.BICUBIC)
    try:
        size = rule.size(width, height)
    except ExtremeAspectRatio:
        ratio = max(width, height) / min(width, height)
        assert ratio > min(200, rule.max_pixels / factor**2 / 4)
        return
    assert rule.size(*size) == size
    assert rule.min_pixels <= size[0] * size[1] <= rule.max_pixels
    assert size[0] % factor == size[1] % factor == 0
    assert rule.tokens(width, height) == size[0] * size[1] // factor**2


def test_the_narrower_limits_count():
    own = build_processor(4 * 3136, 400_000)
    rule = ResizeRule.of(own, DataConfig(min_pixels=3136, max_pixels=1_000_000))
    assert (rule.min_pixels, rule.max_pixels) == (12544, 400_000)
    rule = ResizeRule.of(own, DataConfig(min_pixels=50_000, max_pixels=200_000))
    assert (rule.min_pixels, rule.max_pixels) == (50_000, 200_000)
    with pytest.raises(UserError, match=r"own \[12544, 400000\].*\[200000, 900000\]"):
        ResizeRule.of(own, DataConfig(min_pixels=200_000, max_pixels=900_000))


def test_patches_of_16_pixels():
    """Qwen3-VL's."""
    processor = build_processor(patch_size=16)
    assert ResizeRule.of(processor, DataConfig()).size(100, 70) == (96, 64)


def test_the_demo_models_processor():
    processor = AutoProcessor.from_pretrained("areal_cppo/tasks/triangles/checkpoint")
    rule = ResizeRule.of(processor, DataConfig())
    assert rule.size(84, 84) == (84, 84)
    with pytest.raises(ExtremeAspectRatio, match="5000 x 30"):
        rule.size(5000, 30)  # at most 16 patches: no room for 166 : 1


@pytest.mark.parametrize("size", [(2010, 10), (10, 2010)])
def test_beyond_200_to_1_is_extreme(processor, size):
    rule = ResizeRule.of(processor, DataConfig())
    with pytest.raises(ExtremeAspectRatio, match=f"{size[0]} x {size[1]}"):
        rule.size(*size)


def test_a_page_keeps_its_corners(processor):
    """Never a crop: each corner's colour is still in its corner."""
    page = Image.new("RGB", (900, 2400), "white")
    marks = {"red": (0, 0), "green": (840, 0), "blue": (0, 2340), "cyan": (840, 2340)}
    for colour, at in marks.items():
        page.paste(colour, (*at, at[0] + 60, at[1] + 60))
    seen = ResizeRule.of(processor, DataConfig()).apply(page)
    assert seen.width / seen.height == pytest.approx(900 / 2400, rel=0.05)
    for colour, at in marks.items():
        x, y = (at[0] + 30) / 900 * seen.width, (at[1] + 30) / 2400 * seen.height
        expected = Image.new("RGB", (1, 1), colour).getpixel((0, 0))
        assert seen.getpixel((int(x), int(y))) == expected


def test_bytes_and_files_are_the_same_picture(tmp_path):
    data = encoded(picture())
    (tmp_path / "a.png").write_bytes(data)
    assert load_image(data).tobytes() == picture().tobytes()
    assert load_image(tmp_path / "a.png").tobytes() == picture().tobytes()


def test_transparency_is_white_paper():
    """A diagram drawn in black on nothing stays readable."""
    drawing = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    drawing.paste((0, 0, 0, 255), (10, 10, 20, 20))
    grey = drawing.convert("LA")
    palette = Image.new("P", (40, 30), 0)
    palette.putpalette([0, 0, 0, 10, 10, 10])
    palette.paste(1, (10, 10, 20, 20))
    for data in (
        encoded(drawing),
        encoded(drawing, "WEBP", lossless=True),
        encoded(grey),
        encoded(palette, transparency=0),
    ):
        seen = load_image(data)
        assert seen.mode == "RGB"
        assert seen.getpixel((0, 0)) == (255, 255, 255)
        assert max(seen.getpixel((15, 15))) <= 10


def test_a_palette_without_transparency():
    image = picture().quantize(16)
    expected = image.convert("RGB").tobytes()
    assert load_image(encoded(image)).tobytes() == expected
    assert load_image(encoded(image, "GIF")).tobytes() == expected


def test_cmyk():
    seen = load_image(encoded(picture().convert("CMYK"), "JPEG", quality=95))
    assert seen.mode == "RGB"
    assert np.abs(pixels(seen) - pixels(picture())).mean() < 6


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled(kind):
    """Clipping would make nearly everything white."""
    grey = np.asarray(picture().convert("L"))
    image = Image.fromarray(grey.astype(np.uint16) * 257)
    seen = load_image(encoded(image, kind))
    assert np.array_equal(np.asarray(seen)[..., 0], grey)


def test_grey_of_32_bits():
    grey = np.asarray(picture().convert("L"))
    for values in (
        grey.astype(np.int32),  # already 0 to 255
        grey.astype(np.int32) * 257,
        grey.astype(np.float32) / 255,
        grey.astype(np.float32),
    ):
        seen = load_image(encoded(Image.fromarray(values), "TIFF"))
        assert np.array_equal(np.asarray(seen)[..., 1], grey)


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_other_modes(mode):
    image = picture().convert(mode)
    seen = load_image(encoded(image))
    assert seen.tobytes() == image.convert("RGB").tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_carried_out(orientation):
    """Written as cameras do: the stored picture is turned, the tag says how back."""
    upright = picture(60, 30)
    turned = upright
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    if orientation > 1:
        turned = upright.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = load_image(encoded(turned, "PNG", exif=exif))
    assert seen.size == (60, 30)
    assert seen.tobytes() == upright.tobytes()
    assert seen.getexif().get(0x0112, 1) == 1  # or the next reader would turn it


def test_missing(tmp_path):
    for source in (None, tmp_path / "none.png", tmp_path):
        with pytest.raises(MissingImage):
            load_image(source)


def test_broken(tmp_path):
    whole = encoded(picture(), "JPEG")
    file = tmp_path / "half.jpg"
    file.write_bytes(whole[: len(whole) // 2])
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    for source in (file, whole[:300], b"", b"<html>404</html>"):
        with pytest.raises(BrokenImage):
            load_image(source)
    with pytest.raises(BrokenImage, match="DecompressionBombError"):
        load_image(bomb.getvalue())


def test_no_program_is_started_for_postscript():
    """Pillow would hand it to Ghostscript, where that is installed."""
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    with pytest.raises(BrokenImage, match="UnidentifiedImageError"):
        load_image(postscript)


DAMAGED = [encoded(picture(24, 24), kind) for kind in ("PNG", "JPEG", "GIF", "BMP")]
DAMAGED += [encoded(picture(24, 24).convert("RGBA"), k) for k in ("WEBP", "TIFF")]
DAMAGED += [encoded(picture(24, 24), "PPM")]


def test_errors_of_pillow_that_are_no_oserrors():
    """The lengths of a PNG's header, and of its data, are wrong."""
    whole = encoded(picture(24, 24))
    header, data = slice(8, 12), slice(33, 37)
    for place, length, error in (
        (header, 1, "ValueError"),
        (data, int.from_bytes(whole[data]) // 2, "SyntaxError"),
    ):
        damaged = bytearray(whole)
        damaged[place] = length.to_bytes(4)
        with pytest.raises(BrokenImage, match=error):
            load_image(bytes(damaged))


@pytest.mark.filterwarnings("ignore")  # Pillow's, about damaged files
@given(st.sampled_from(DAMAGED), st.data())
def test_no_damage_escapes_as_another_error(whole, data):
    """Cut, or with bytes changed: a picture or `BrokenImage`, nothing else."""
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    places = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8)
    for place, value in data.draw(places):
        if place < len(damaged):
            damaged[place] = value
    try:
        assert load_image(bytes(damaged)).mode == "RGB"
    except BrokenImage:
        pass
