"""Every row of a table is checked once: can it be a problem?"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from datasets import Dataset
from tqdm import tqdm

from areal_cppo.data.findings import BadRow, Findings, findings_key
from areal_cppo.data.images import (
    BrokenImage,
    ExtremeAspectRatio,
    MissingImage,
    ResizeRule,
    load_image,
)
from areal_cppo.data.prompts import PLACEHOLDER, PromptBuilder
from areal_cppo.data.schemas import ImageSource, Problem, Schema, read_problem
from areal_cppo.data.sources import Rows

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
class Reader:
    """Makes problems of rows.

    Attributes
    ----------
    rows
        Where the problems are.
    table
        Their columns, as Arrow tables: bytes of images stay what they are.
    schema
        What the columns mean.
    split
        For the names of rows that have none of their own.
    repeated
        Ids that several rows have; these rows' numbers are added to them.
    """

    rows: Rows
    table: Dataset
    schema: Schema
    split: str
    repeated: frozenset[str]

    @classmethod
    def of(cls, rows: Rows, schema: Schema, split: str) -> Reader:
        """The reader of a table, once its ids are known."""
        needed = dict.fromkeys(
            (schema.question, schema.answer, schema.images, schema.id or schema.answer)
        )
        table = rows.table.select_columns(list(needed)).with_format("arrow")
        ids = Counter(map(str, rows.table[schema.id])) if schema.id else Counter()
        repeated = frozenset(name for name, count in ids.items() if count > 1)
        return cls(rows, table, schema, split, repeated)

    def __len__(self) -> int:
        return len(self.table)

    def __call__(self, start: int, stop: int) -> list[Problem]:
        """Problems of the rows from `start` to `stop`; images are not decoded."""
        return [
            read_problem(row, self.schema, self._name(row, number), self.rows.folder)
            for number, row in enumerate(self.table[start:stop].to_pylist(), start)
        ]

    def _name(self, row: dict[str, Any], number: int) -> str:
        own = row[self.schema.id] if self.schema.id else None
        if own is None:
            return f"{self.split}-{number}"
        return f"{own}-{number}" if str(own) in self.repeated else str(own)


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
        tokens = 0
        try:
            for source in images:
                tokens += self.resize.tokens(*load_image(source).size)
        except MissingImage as error:
            return "missing_image", str(error)
        except BrokenImage as error:
            return "broken_image", str(error)
        except ExtremeAspectRatio as error:
            return "extreme_aspect_ratio", str(error)
        return tokens

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
