"""Problems as AReaL's vision workflow takes them."""

from __future__ import annotations

import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import ProcessorMixin

from areal_cppo.config.blocks import DataConfig
from areal_cppo.data.check import REASONS, RowCheck, check_rows
from areal_cppo.data.columns import OwnColumns
from areal_cppo.data.findings import BadRow
from areal_cppo.data.images import ResizeRule, UnusableImage, in_line, load_image
from areal_cppo.data.problems import Reader, schema_of
from areal_cppo.data.prompts import PromptBuilder
from areal_cppo.data.sources import Rows, load_rows
from areal_cppo.data.tables import FORMATS
from areal_cppo.errors import RunError, UserError
from areal_cppo.rewards.own import OF_A_PROBLEM

PASS_RATE = "pass_rate"  # left out on purpose: counted, never a bad row
NAMED = 3  # rows named of each reason
Note = Callable[[str], None]


class ProblemDataset:
    """The usable problems of a dataset.

    An item is a dict: `images` (list of RGB pictures at the size at which the model
    sees them), `messages` (the prompt's text, with an image token per picture that the
    processor will expand), `answer`, `query_id`, and what `sees` names. Pictures are
    decoded when an item is asked for.

    The order depends on the table and `seed` alone. AReaL's dataloader shuffles with a
    seed of its own, the same in every run, so that the run's seed has to be here.

    Parameters
    ----------
    processor
        The model's.
    config
        The block `data`.
    path, split
        What AReaL's `train_dataset` or `valid_dataset` says.
    seed
        Of the order, and of the choice that `data.limit` makes.
    shuffle
        Whether problems are in an order drawn by the seed; else in the table's.
    sees
        What else than its answer the reward function is told of a problem.
    setting
        The block's name, for messages.
    note
        Told in a line what was found, and before what takes long.

    Attributes
    ----------
    counts : Counter[str]
        Rows left out by reason: `check.REASONS` and `pass_rate`.
    bad : list[BadRow]
        The bad ones of them.
    n_rows : int
        Rows of the table.

    Raises
    ------
    UserError
        There is no such data, it has other columns, no row is usable, or one is bad
        and `data.bad_rows` says refuse.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        config: DataConfig,
        *,
        path: str,
        split: str,
        seed: int,
        shuffle: bool,
        sees: Sequence[str] = (),
        setting: str = "train_dataset",
        note: Note = logging.getLogger("ProblemDataset").info,
    ) -> None:
        rows = load_rows(path, split, config.image_folder, setting, note)
        schema = schema_of(config, rows.table.column_names, setting)
        self._read = Reader.of(rows, schema, split)
        self._sees = sees
        own = [name for name in sees if name not in OF_A_PROBLEM]
        self._columns = OwnColumns.of(rows.table, own, setting)
        self._prompts = PromptBuilder(processor, config.instruction)
        self._resize = ResizeRule.of(processor, config)
        check = RowCheck(self._prompts, self._resize, config.max_prompt_tokens)
        findings = check_rows(self._read, check, setting, note)

        self.n_rows = findings.rows
        wanted = _wanted(rows, config, setting)
        self.bad: list[BadRow] = [row for row in findings.bad if row.row in wanted]
        found = Counter(row.reason for row in self.bad)
        self.counts = Counter({r: found[r] for r in REASONS if found[r]})
        if len(wanted) < self.n_rows:
            self.counts[PASS_RATE] = self.n_rows - len(wanted)
        usable = sorted(wanted - {row.row for row in self.bad})
        self._identities = findings.identities
        self._refuse(config, usable, f"{setting}.path", path)
        self._order = _order(usable, seed, shuffle, config.limit)
        note(self._summary(path, split, setting, findings.text_only))

    def _refuse(self, config, usable: list[int], key: str, path: str) -> None:
        if self.bad and config.bad_rows == "refuse":
            bad = Counter({r: n for r, n in self.counts.items() if r != PASS_RATE})
            raise UserError(
                f"{key}: expected no bad rows (data.bad_rows: refuse), found "
                f"{len(self.bad):,} of {self.n_rows:,} in {path}: "
                f"{_described(self.bad, bad)}; mend them or set data.bad_rows=skip"
            )
        if not usable:
            why = _described(self.bad, self.counts) or "no row at all"
            mend = "look at the first reasons named"
            if self.counts.get("missing_image"):
                mend = "say where the pictures are (data.image_folder)"
            if self.counts.get("unknown_text") == self.n_rows:
                mend = "choose a model that reads such text (docs/own_run.md makes one)"
            raise UserError(
                f"{key}: expected usable rows, found none of {self.n_rows:,} in "
                f"{path}: {why}; {mend}"
            )

    def _summary(self, path, split, setting, text_only: list[int]) -> str:
        used = f"{len(self):,} of {self.n_rows:,} rows"
        text = f"{setting}: {used} of {path}"
        if "[" in split or Path(path).suffix not in FORMATS:  # a file is one split
            text += f" ({split})"
        if self.counts:
            text += f"; left out: {_described(self.bad, self.counts)}"
        n_text = len(set(text_only) & set(self._order))
        return text + (f"; {n_text:,} used without an image" if n_text else "")

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self._order[index]
        (problem,) = self._read(row, row + 1)
        try:
            pictures = [
                self._resize.apply(load_image(source)) for source in problem.images
            ]
        except UnusableImage as error:
            raise RunError(
                f"the image of problem {problem.query_id} could be read when the data "
                f"was checked, and can't be now: {error}"
            ) from error
        return {
            "images": pictures,
            "messages": self._prompts.text(problem.question, len(pictures)),
            "answer": problem.answer,
            "query_id": problem.query_id,
            **({"question": problem.question} if "question" in self._sees else {}),
            **self._columns(row),
        }

    def shared_with(self, other: ProblemDataset) -> str:
        """Which problems `other` has too, in words; empty for none.

        Two are the same that ask the same question about the same images, whatever
        their names and their answers.
        """
        theirs = {other._identities[row] for row in other._order}
        rows = sorted(row for row in self._order if self._identities[row] in theirs)
        first = [(row, *self._read(row, row + 1)) for row in rows[:NAMED]]
        named = ", ".join(f"row {row} ({in_line(p.query_id)})" for row, p in first)
        return f"{len(rows):,} of {len(self):,} problems: {named}" if rows else ""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))


def _wanted(rows: Rows, config: DataConfig, setting: str) -> set[int]:
    """Numbers of the rows whose pass rate is within the bounds, or all."""
    column = config.pass_rate_column
    if column is None:
        return set(range(len(rows.table)))
    wanted = set()
    for row, value in enumerate(rows.values(column)):
        try:
            rate = math.nan if value is None else float(value)
        except (TypeError, ValueError):
            raise UserError(
                f"data.pass_rate_column: expected numbers in [0, 1], found {value!r} "
                f"in {column} of {setting}; name a column of numbers"
            ) from None
        if config.pass_rate_min <= rate <= config.pass_rate_max:  # not NaN
            wanted.add(row)
    return wanted


def _order(usable: list[int], seed: int, shuffle: bool, limit: int | None) -> list[int]:
    drawn = list(usable)
    random.Random(seed).shuffle(drawn)
    drawn = drawn[:limit]
    return drawn if shuffle else sorted(drawn)


def _described(bad: list[BadRow], counts: Counter[str]) -> str:
    """Counts by reason with the first few rows of each, in one line."""
    parts = []
    for reason, count in counts.items():
        first = [item for item in bad if item.reason == reason][:NAMED]
        named = "; ".join(f"{in_line(each.query_id)}: {each.detail}" for each in first)
        parts.append(f"{reason} {count:,}" + (f" ({named})" if named else ""))
    return ", ".join(parts)
