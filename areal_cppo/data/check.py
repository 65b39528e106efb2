"""Every row of a table is checked once: can it be a problem?"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import blake2b

from tqdm import tqdm

from areal_cppo.data.findings import BadRow, Findings, findings_key
from areal_cppo.data.images import (
    ImageSource,
    ResizeRule,
    UnusableImage,
    load_image,
    pixels_digest,
)
from areal_cppo.data.problems import Problem, Reader
from areal_cppo.data.prompts import PLACEHOLDER, PromptBuilder

# Why a row can't be used, in the order in which it is looked for.
REASONS = (
    "no_question",
    "no_answer",
    "placeholder_count",
    "missing_image",
    "broken_image",
    "extreme_aspect_ratio",
    "unknown_text",
    "prompt_too_long",
)
_BATCH = 64  # rows read at a time
_NOTE_SECONDS = 20.0


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
    ) -> Iterator[tuple[str, str] | str]:
        """For each problem its identity (:class:`Findings`) or, if it can't be used,
        the reason and what was seen."""
        early = [_without_decoding(problem) for problem in problems]
        prompts = [
            "" if bad else self.prompts.text(problem.question, len(problem.images))
            for bad, problem in zip(early, problems, strict=True)
        ]
        unknown = [self.prompts.unknown(prompt) for prompt in prompts]
        lengths = self.prompts.lengths(
            [
                "" if bad else prompt
                for bad, prompt in zip(unknown, prompts, strict=True)
            ]
        )
        seen = threads.map(
            lambda bad, problem: bad or self._images(problem.images), early, problems
        )
        for problem, prompt, length, lost, found in zip(
            problems, prompts, lengths, unknown, seen, strict=True
        ):
            bad = found if isinstance(found[0], str) else None
            if bad is None and lost:
                bad = "unknown_text", lost
            yield bad or self._verdict(problem, prompt, length, *found)

    def _images(
        self, images: list[ImageSource]
    ) -> tuple[int, list[str]] | tuple[str, str]:
        """Tokens of a problem's images and what these show, or why one is unusable."""
        tokens, shown = 0, []
        try:
            for source in images:
                picture = load_image(source)
                tokens += self.resize.tokens(*picture.size)
                shown.append(pixels_digest(picture))
        except UnusableImage as error:
            return error.reason, str(error)
        return tokens, shown

    def _verdict(
        self, problem: Problem, prompt: str, length: int, tokens: int, shown: list[str]
    ) -> tuple[str, str] | str:
        n_images = len(problem.images)
        if not self.prompts.holds_images(prompt, n_images):
            return "placeholder_count", "the question holds one of the model's tokens"
        tokens += length - n_images
        if tokens > self.max_prompt_tokens:
            return "prompt_too_long", f"{tokens} tokens"
        words = problem.question.replace(PLACEHOLDER, " ").split()
        return blake2b("\n".join([*shown, *words]).encode(), digest_size=12).hexdigest()


def _without_decoding(problem: Problem) -> tuple[str, str] | None:
    """What is wrong with a problem that can be told without looking at its images."""
    if problem.fault:
        return problem.fault
    unusable = [each for each in problem.images if isinstance(each, UnusableImage)]
    if unusable:
        return unusable[0].reason, str(unusable[0])
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
            for row, (problem, found) in enumerate(
                zip(problems, check(problems, threads), strict=True), start
            ):
                findings.identities.append(found if isinstance(found, str) else "")
                if isinstance(found, tuple):
                    findings.bad.append(BadRow(row, problem.query_id, *found))
                elif not problem.images:
                    findings.text_only.append(row)
            bar.update(len(problems))
            if bar.disable and time.monotonic() - noted > _NOTE_SECONDS:
                noted = time.monotonic()
                done = start + len(problems)
                note(f"checking {setting}: {done:,} of {total:,} rows")
    return findings
