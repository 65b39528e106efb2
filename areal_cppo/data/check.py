"""Every row of a table is checked once: can it be a problem?

What was found is kept for the next start, in a small JSON file beside the caches of
`datasets`, under a key made of all that it depends on: the state of the table's files
and of each image file, the settings, the model's processor, and this package's own
code.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import PIL
import pyarrow as pa
import pyarrow.compute as pc
import transformers
from tqdm import tqdm

from areal_cppo.data.images import (
    ImageSource,
    ResizeRule,
    UnusableImage,
    load_image,
)
from areal_cppo.data.problems import (
    PLACEHOLDER,
    Problem,
    PromptBuilder,
    Reader,
)
from areal_cppo.data.sources import Rows, cache_folder, file_state

# Why a row can't be used, in the order in which it is looked for.
REASONS = (
    "no_question",
    "no_answer",
    "placeholder_count",
    "missing_image",
    "broken_image",
    "extreme_aspect_ratio",
    "prompt_too_long",
)
_BATCH = 64  # rows read at a time
_NOTE_SECONDS = 20.0


@dataclass(frozen=True)
class BadRow:
    """A row that can't be used: its number and name, the reason and what was seen."""

    row: int
    query_id: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Findings:
    """What the check of a table found.

    Attributes
    ----------
    rows
        Number of rows.
    bad
        Those that can't be used, by number.
    text_only
        Numbers of usable rows without an image.
    """

    rows: int
    bad: list[BadRow] = field(default_factory=list)
    text_only: list[int] = field(default_factory=list)

    def keep(self, key: str) -> None:
        """Write the findings down for :meth:`recall`."""
        file = _file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_suffix(f".{os.getpid()}.part")
        aside.write_text(json.dumps(asdict(self)))
        aside.replace(file)

    @classmethod
    def recall(cls, key: str) -> Findings | None:
        """What was kept under a key, if anything was."""
        try:
            kept = json.loads(_file(key).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        kept["bad"] = [BadRow(**bad) for bad in kept["bad"]]
        return cls(**kept)


def _file(key: str) -> Path:
    return cache_folder() / f"check-{key}.json"


@dataclass(frozen=True)
class RowCheck:
    """Tells rows that can be used from those that can't.

    Attributes
    ----------
    prompts
        The model's prompts.
    resize
        The model's image sizes.
    max_prompt_tokens
        Longest prompt, image tokens included.
    """

    prompts: PromptBuilder
    resize: ResizeRule
    max_prompt_tokens: int

    def __call__(
        self, problems: list[Problem], threads: ThreadPoolExecutor
    ) -> Iterator[tuple[str, str] | None]:
        """For each problem the reason and what was seen, or `None` if it is usable."""
        early = [_without_decoding(problem) for problem in problems]
        prompts = [
            "" if bad else self.prompts.text(problem.question, len(problem.images))
            for bad, problem in zip(early, problems, strict=True)
        ]
        lengths = self.prompts.lengths(prompts)
        seen = threads.map(
            lambda bad, problem: bad or self._images(problem.images), early, problems
        )
        for problem, prompt, length, found in zip(
            problems, prompts, lengths, seen, strict=True
        ):
            yield self._verdict(problem, prompt, length, found)

    def _images(self, images: list[ImageSource]) -> int | tuple[str, str]:
        """Tokens of a problem's images, or why one can't be used."""
        try:
            return sum(self.resize.tokens(*load_image(each).size) for each in images)
        except UnusableImage as error:
            return error.reason, str(error)

    def _verdict(
        self,
        problem: Problem,
        prompt: str,
        length: int,
        found: int | tuple[str, str],
    ) -> tuple[str, str] | None:
        if isinstance(found, tuple):
            return found
        n_images = len(problem.images)
        if not self.prompts.holds_images(prompt, n_images):
            return "placeholder_count", "the question holds one of the model's tokens"
        tokens = length - n_images + found
        if tokens > self.max_prompt_tokens:
            return "prompt_too_long", f"{tokens} tokens"
        return None


def _without_decoding(problem: Problem) -> tuple[str, str] | None:
    """What is wrong with a problem that can be told without looking at its images."""
    if not problem.question.strip():
        return "no_question", "empty"
    if not problem.answer:
        return "no_answer", "empty"
    n_images = len(problem.images)
    placeholders = problem.question.count(PLACEHOLDER)
    if placeholders and not n_images:
        return "missing_image", f"no image for {placeholders} placeholder(s)"
    if placeholders and placeholders != n_images:
        return "placeholder_count", f"{placeholders} for {n_images} image(s)"
    return None


def check_rows(
    read: Reader,
    check: RowCheck,
    setting: str,
    note: Callable[[str], None],
) -> Findings:
    """Check each row, or recall what was found when nothing has changed since.

    Parameters
    ----------
    setting
        `train_dataset` or `valid_dataset`, for the progress display.
    note
        Told how far the check is where standard error is not a terminal; there is a
        progress bar where it is.
    """
    prompts = check.prompts
    settings = [
        read.split,
        asdict(read.schema),
        asdict(check.resize),
        check.max_prompt_tokens,
        prompts.instruction,
        prompts.processor.chat_template,
        prompts.processor.tokenizer.backend_tokenizer.to_str(),
    ]
    key = findings_key(read.rows, read.schema.images, settings)
    findings = Findings.recall(key)
    if findings is None:
        findings = _look(read, check, setting, note)
        findings.keep(key)
    return findings


def _look(
    read: Reader, check: RowCheck, setting: str, note: Callable[[str], None]
) -> Findings:
    total = len(read)
    findings = Findings(total)
    noted = time.monotonic()
    workers = min(8, os.cpu_count() or 1)  # Pillow decodes outside Python's lock
    bar = tqdm(total=total, desc=f"checking {setting}", unit=" rows", disable=None)
    with bar, ThreadPoolExecutor(workers) as threads:
        for start in range(0, total, _BATCH):
            problems = read(start, min(start + _BATCH, total))
            for row, (problem, bad) in enumerate(
                zip(problems, check(problems, threads), strict=True), start
            ):
                if bad:
                    findings.bad.append(BadRow(row, problem.query_id, *bad))
                elif not problem.images:
                    findings.text_only.append(row)
            bar.update(len(problems))
            if bar.disable and time.monotonic() - noted > _NOTE_SECONDS:
                noted = time.monotonic()
                done = start + len(problems)
                note(f"checking {setting}: {done:,} of {total:,} rows")
    return findings


def findings_key(rows: Rows, image_column: str, settings: list[Any]) -> str:
    """A digest of all that findings depend on.

    Parameters
    ----------
    image_column
        Whose paths name files that count too.
    settings
        Everything else, as plain values for JSON.
    """
    package = Path(__file__).parents[1]
    own_code = [*sorted(package.glob("data/*.py")), package / "rewards" / "answers.py"]
    parts = [
        *(f"{file.resolve()} {file_state(file)}" for file in rows.files),
        str(rows.folder.resolve()),
        (PIL.__version__, transformers.__version__, pa.__version__),
        *(file.read_text() for file in own_code),
        *settings,
    ]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{json.dumps(part)}\n".encode())
    for path in image_paths(rows, image_column):
        digest.update(f"{path} {file_state(path)}\n".encode())
    return digest.hexdigest()[:32]


def image_paths(rows: Rows, column: str) -> Iterator[Path]:
    """Files that a column of images names; no image's bytes are copied."""
    batches = rows.table.select_columns([column]).with_format("arrow")
    for batch in batches.iter(4096):
        for chunk in batch.column(column).chunks:
            for path in _paths(chunk):
                yield rows.folder / path


def _paths(values: pa.Array) -> Iterator[str]:
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        yield from _paths(values.flatten())
    elif pa.types.is_struct(values.type):
        names = [values.type.field(i).name for i in range(values.type.num_fields)]
        if "path" in names:
            paths = pc.struct_field(values, "path")
            if "bytes" in names:
                paths = paths.filter(pc.is_null(pc.struct_field(values, "bytes")))
            yield from _paths(paths)
    elif pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        yield from (path for path in values.to_pylist() if path)
