"""Sample responses for the report: the data, `samples.json` and its PNGs.

Nothing is computed here: whoever holds a model fills in `SampleView`. Those that a run
keeps of its own steps are in `step_samples.py`.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from pathlib import Path

from PIL import Image

IMAGE_KINDS = ("anchor", "positive", "negative")
POLICIES = ("before", "after")


@dataclass(frozen=True)
class TokenView:
    """One response token: its text, what the model predicts there, whether selected.

    `*_entropy` of the prediction, in nats, and `*_probability` of this token, given
    each image; `*_divergence` is KL(anchor || view) in nats. Those with a default are
    not in every file. `role` is what the token does where that is known (`R` reads a
    digit, see `sample_html.ROLES`), else the empty string. Of a token that is not
    `gated` nothing is known: its gain is 0, its entropies are `None`.
    """

    text: str
    gain: float
    anchor_entropy: float | None
    negative_entropy: float | None
    selected: bool
    role: str = ""
    positive_entropy: float | None = None
    anchor_probability: float | None = None
    positive_probability: float | None = None
    negative_probability: float | None = None
    positive_divergence: float | None = None
    negative_divergence: float | None = None
    gated: bool = True

    @property
    def numbers(self) -> list[float]:
        """All that is known of it as a number."""
        values = (getattr(self, item.name) for item in fields(self))
        return [value for value in values if type(value) is float]


@dataclass(frozen=True)
class StoredPicture:
    """A WebP file, shown as it is."""

    data: bytes
    size: tuple[int, int]

    @classmethod
    def read(cls, path: Path) -> "StoredPicture":
        with Image.open(path, formats=["WEBP"]) as image:
            return cls(path.read_bytes(), image.size)

    def tobytes(self) -> bytes:
        """What tells it from others."""
        return self.data

    @property
    def uri(self) -> str:
        return "data:image/webp;base64," + base64.b64encode(self.data).decode()


Picture = Image.Image | StoredPicture


@dataclass(frozen=True)
class SampleView:
    """One response with the three images it was judged by.

    `answer` is the answer the response gave, `correct` whether it is right, `policy`
    which policy answered: before or after training. Where there is nothing to judge
    by, `correct` and `reward` are `None`, and so is `policy` of a model outside of a
    run. An image that there is not (a run without views) is `None`. `notes` are
    sentences that belong below the response, `perturbations` says by which one a view
    (positive, negative) was made. `text` is what has no tokens of its own, all of the
    response or its end; `heading` and `facts` (name, value) stand above it. These three
    are not in `samples.json`.
    """

    title: str
    prompt: str
    anchor: Picture | None
    positive: Picture | None
    negative: Picture | None
    tokens: list[TokenView]
    correct: bool | None
    answer: str
    reward: float | None
    policy: str | None
    notes: tuple[str, ...] = ()
    perturbations: dict[str, str] = field(default_factory=dict)
    text: str = ""
    heading: str = ""
    facts: tuple[tuple[str, str], ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of images to show: all where there is a view, else the anchor or none."""
        if self.positive or self.negative:
            return IMAGE_KINDS
        return IMAGE_KINDS[:1] if self.anchor else ()


def write_samples(folder: Path | str, samples: Sequence[SampleView]) -> Path:
    """Write `samples.json` and `samples/N-KIND.png` into a run's folder."""
    folder = Path(folder)
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    records = []
    for number, sample in enumerate(samples):
        _check(number, sample)
        record = {key: getattr(sample, key) for key in ("title", "prompt")}
        for kind in IMAGE_KINDS:
            image = getattr(sample, kind)
            if image is not None:
                record[kind] = f"samples/{number}-{kind}.png"
                image.convert("RGB").save(folder / record[kind])
        record["tokens"] = [asdict(token) for token in sample.tokens]
        for key in ("correct", "answer", "reward", "policy", "notes", "perturbations"):
            record[key] = getattr(sample, key)
        records.append(record)
    path = folder / "samples.json"
    part = path.with_suffix(".json.part")
    part.write_text(json.dumps(records, allow_nan=False, indent=1), encoding="utf-8")
    part.replace(path)
    return path


def read_samples(folder: Path | str) -> list[SampleView]:
    """Read what `write_samples` wrote; unknown keys are ignored."""
    folder = Path(folder)
    records = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
    if not isinstance(records, list):
        raise ValueError(
            f"expected a list of samples in samples.json, found "
            f"{type(records).__name__}; write it with write_samples"
        )
    return [_sample(folder, number, record) for number, record in enumerate(records)]


def _sample(folder: Path, number: int, record: dict) -> SampleView:
    try:
        tokens = [_token(token) for token in record["tokens"]]
        images = {kind: _image(folder, record.get(kind)) for kind in IMAGE_KINDS}
        rest = {
            key: record[key]
            for key in ("title", "prompt", "correct", "answer", "reward", "policy")
        }
        notes = tuple(map(str, record.get("notes", ())))
        names = {str(k): str(v) for k, v in record.get("perturbations", {}).items()}
        sample = SampleView(
            tokens=tokens, notes=notes, perturbations=names, **images, **rest
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"expected sample {number} of samples.json with the keys of SampleView, "
            f"found a mismatch: {error}; write it with write_samples"
        ) from error
    return sample


def _token(record: dict) -> TokenView:
    known = {field.name for field in fields(TokenView)}
    return TokenView(**{key: record[key] for key in record if key in known})


def _image(folder: Path, name: str | None) -> Image.Image | None:
    """The PNG of that name inside the folder; never one from elsewhere."""
    if not name:
        return None
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(
            f"expected sample images inside the run's folder, found {name!r}; "
            "keep them under samples/"
        )
    if not path.is_file():
        return None
    with Image.open(path, formats=["PNG"]) as image:
        return image.convert("RGB")


def _check(number: int, sample: SampleView) -> None:
    if sample.policy not in (*POLICIES, None):
        raise ValueError(
            f"expected policy 'before', 'after' or None, found {sample.policy!r} in "
            f"sample {number}; say which policy answered"
        )
    for token in sample.tokens:
        if not all(map(isfinite, token.numbers)):
            raise ValueError(
                f"expected finite numbers, found {token.numbers} at token "
                f"{token.text!r} of sample {number}; leave such tokens out"
            )
