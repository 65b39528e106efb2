"""What stands for an image in a row: read, or a bad row with its reason.

Not covered: an image on a machine's network, which is never fetched.
"""

from __future__ import annotations

import base64
import json
import os
import struct
import zlib

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from areal_cppo.data.images import (
    BrokenImage,
    MissingImage,
    UnusableImage,
    image_sources,
    in_line,
    load_image,
)
from areal_cppo.errors import UserError
from tests.data.problem_files import encoded, jsonl, picture

PNG = encoded(picture())
TEXT = base64.b64encode(PNG).decode()
LINES = base64.encodebytes(PNG).decode()
JPEG = base64.b64encode(encoded(picture(), "JPEG", quality=95)).decode()

READ = {
    "bare": TEXT,
    "bare, in lines": LINES,
    "bare, without padding": TEXT.rstrip("="),
    "bare, for URLs": TEXT.replace("+", "-").replace("/", "_"),
    "JPEG": JPEG,
    **{
        kind: base64.b64encode(encoded(picture(), kind)).decode()
        for kind in ("GIF", "WEBP", "TIFF")
    },
    "URI": f"data:image/png;base64,{TEXT}",
    "URI without a type": f"data:;base64,{TEXT}",
    "URI in capitals": f"DATA:IMAGE/PNG;BASE64,{TEXT}",
    "URI with escapes": f"data:image/png;base64,{TEXT}".replace("+", "%2B"),
    "bytes": {"bytes": TEXT},
    "bytes of a BMP": {
        "bytes": base64.b64encode(encoded(picture(), "BMP")).decode(),
        "path": None,
    },
    "bytes as a URI": {"bytes": f"data:image/png;base64,{TEXT}", "path": "x.png"},
    "path with a URI": {"path": f"data:image/png;base64,{TEXT}", "bytes": None},
    "JSON": json.dumps({"bytes": TEXT}),
    "JSON of a list": json.dumps([{"bytes": TEXT, "path": None}]),
    "JSON of a path": '{"path": "a.png"}',
    "a name like JSON": "{a}.png",
    "a name like a list": "[1].png",
    "a name like base64": "iVBORw0KGgo.png",
}


@pytest.mark.parametrize("value", READ.values(), ids=READ)
@pytest.mark.parametrize("listed", [False, True])
def test_what_is_read(tmp_path, load, value, listed):
    for name in ("a.png", "{a}.png", "[1].png", "iVBORw0KGgo.png"):
        (tmp_path / name).write_bytes(PNG)
    if listed and not (isinstance(value, str) and value.startswith('[{"')):
        value = [value]
    (source,) = image_sources(value, tmp_path)
    found = np.asarray(load_image(source)).astype(int)
    assert np.abs(found - np.asarray(picture())).mean() < 12  # GIF and JPEG lose some
    row = {"problem": "<image>?", "answer": 1, "images": value}
    item = load(jsonl(tmp_path / "a.jsonl", [row]), source="custom")[0]
    assert len(item["images"]) == 1


def test_base64_as_bytes():
    (source,) = image_sources(TEXT.encode(), None)
    assert source == PNG


BAD = {  # the value, the reason and what is seen
    "a long name": ("x" * 300 + ".png", "missing_image", "too long"),
    "a long path": ("/".join(["x" * 90] * 99), "missing_image", "too long"),
    "NUL": ("a\0b.png", "missing_image", "no file "),
    "a line break": ("a\nb.png", "missing_image", "a b.png"),
    "half a character": ("\ud800.png", "missing_image", "no file "),
    "a folder": ("folder", "missing_image", "folder (a folder)"),
    "nothing": ("", "missing_image", "no image"),
    "no bytes, no path": ({"bytes": None, "path": None}, "missing_image", "no image"),
    "a URL": ("https://a.org/b.png", "missing_image", "a URL, which is not fetched"),
    "file:": ("file:///a.png", "missing_image", "a URL"),
    "an empty file": ("empty.png", "broken_image", "no picture in 0 bytes"),
    "a cut file": ("cut.png", "broken_image", "OSError"),
    "text": ("text.png", "broken_image", "no picture in 4 bytes"),
    "a bomb": ("bomb.png", "broken_image", "DecompressionBombError"),
    "no pixels": ("zero.ppm", "broken_image", "zero.ppm: "),
    "a pipe": ("pipe", "missing_image", "no file "),
    "cut base64": (TEXT[: len(TEXT) // 2], "broken_image", "Error"),
    "base64 with a hole": (TEXT[:50] + "*" + TEXT[50:], "broken_image", "decoded ("),
    "a URI of text": ("data:text/plain,hello", "broken_image", "without ;base64"),
    "an empty URI": ("data:image/png;base64,", "broken_image", "0 bytes"),
    "bytes that are a name": ({"bytes": "a.png"}, "broken_image", "base64"),
    "a list of bytes": ({"bytes": [137, 80]}, "broken_image", "list; expected bytes"),
    "another struct": ({"url": "a.png"}, "broken_image", "a struct of url; expected"),
    "pixels": ([[[0, 0, 0]] * 4] * 4, "broken_image", "as of pixels; expected bytes"),
    "shares of pixels": ([[[0.5] * 3] * 4] * 4, "broken_image", "as of pixels"),
    "grey pixels": ([1, 2, 3], "broken_image", "numbers or nested lists"),
    "lists in a list": ([["a.png"]], "broken_image", "numbers or nested lists"),
    "a number": (7, "broken_image", "numbers or nested lists"),
    "thin once whole": ("thin.png", "extreme_aspect_ratio", "8000 x 41"),
    "thin": ("thinner.png", "extreme_aspect_ratio", "8000 x 8"),
    "tall once whole": ("tall.png", "extreme_aspect_ratio", "41 x 8000"),
}


def large_header() -> bytes:
    """A PNG that says that it has 400 million pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    check = struct.pack(">I", zlib.crc32(head))
    return PNG[:8] + struct.pack(">I", 13) + head + check + PNG[33:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    for name, data in {
        "a.png": PNG, "empty.png": b"", "cut.png": PNG[:200], "text.png": b"text",
        "zero.ppm": b"P6 0 0 255\n",
        "thin.png": encoded(Image.new("1", (8000, 41))),
        "thinner.png": encoded(Image.new("1", (8000, 8))),
        "tall.png": encoded(Image.new("1", (41, 8000))),
        "bomb.png": large_header(),
    }.items():  # fmt: skip
        (folder / name).write_bytes(data)
    return folder


def test_bad_images_are_counted_rows(folder, load):
    """All in one table: none hides another, each is named with its row."""
    rows = [{"problem": "<image>?", "answer": 1, "images": v} for v, *_ in BAD.values()]
    rows.append({"problem": "<image>?", "answer": 1, "images": "a.png"})
    dataset = load(jsonl(folder / "a.jsonl", rows), source="custom")
    assert [item["query_id"] for item in dataset] == [f"train-{len(BAD)}"]
    assert [row.row for row in dataset.bad] == list(range(len(BAD)))
    for bad, (name, (_, reason, seen)) in zip(dataset.bad, BAD.items(), strict=True):
        assert (bad.reason, seen in bad.detail) == (reason, True), (name, bad.detail)
        assert bad.detail.isprintable() and len(bad.detail) < 600
    (note,) = dataset.notes
    assert len(note.splitlines()) == 1 and "0x" not in note


def test_pictures_that_are_elsewhere(tmp_path, load):
    rows = [{"problem": "<image>?", "answer": 1, "images": "a.png"}] * 2
    with pytest.raises(UserError, match=r"where the pictures are \(data.image_fold"):
        load(jsonl(tmp_path / "a.jsonl", rows), source="custom")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.png").write_bytes(PNG)
    (tmp_path / "a" / "b.png").chmod(0)
    with pytest.raises(BrokenImage, match="PermissionError"):
        load_image(tmp_path / "a" / "b.png")
    (tmp_path / "a").chmod(0)
    with pytest.raises(MissingImage, match="Permission denied"):
        load_image(tmp_path / "a" / "b.png")


def test_a_folder_that_may_not_be_looked_into(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.is_file", refuse)
    with pytest.raises(MissingImage, match="no file .*Permission denied"):
        load_image(tmp_path / "a.png")


def test_a_column_of_arrays(tmp_path, load):
    """As `datasets` holds them; and not an image among them is one clear line."""
    features = datasets.Features(
        problem=datasets.Value("string"),
        answer=datasets.Value("string"),
        images=datasets.Array3D((4, 4, 3), "uint8"),
    )
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    rows = {"problem": ["<image>?"] * 2, "answer": ["1"] * 2, "images": list(pixels)}
    table = datasets.Dataset.from_dict(rows, features=features)
    table.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(
        UserError, match="broken_image 2 .*numbers or nested"
    ) as refused:
        load(tmp_path / "a.parquet", source="custom")
    assert len(str(refused.value).splitlines()) == 1


@given(st.text(max_size=400) | st.sampled_from(list(READ.values())) | st.binary())
def test_no_value_escapes_as_another_error(tmp_path_factory, value):
    for source in image_sources(value, tmp_path_factory.getbasetemp()):
        try:
            assert load_image(source).mode == "RGB"
        except UnusableImage as error:
            assert in_line(error) and str(error).isprintable()
