"""What commands have in common: before they start, options, files, notes."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from areal_cppo.config.keys import check_early
from areal_cppo.doctor.packages import check_versions
from areal_cppo.errors import UserError
from areal_cppo.serving.cpu import enable_in_this_process

_CHOICE = re.compile(r"invalid choice: (\S+) \(choose from (.*)\)$")


class Parser(argparse.ArgumentParser):
    """Answers a mistake in one line, not with all that could have been meant.

    `args.parser` is the one of the command that was given.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.set_defaults(parser=self)

    def add_overrides(self, help: str | None = None) -> None:
        """The words `key=value`; `parse` finds those between options, too."""
        self.add_argument(
            "overrides", nargs="*", default=[], metavar="key=value", help=help
        )

    def error(self, message: str) -> NoReturn:
        wrong = _CHOICE.search(message)
        if wrong and (meant := near(wrong[1], wrong[2])):
            message = message[: wrong.end(1)] + meant
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")

    def refuse(self, words: Sequence[str]) -> NoReturn:
        """End with what is wrong of words that no option takes."""
        wrong = next((word for word in words if word[0] == "-"), words[0])
        options = " ".join(re.findall(r"--[\w-]+", self.format_usage()))
        meant = near(wrong.partition("=")[0], options)
        self.error(f"unrecognized arguments: {' '.join(words)}{meant}")


def near(word: str, known: str) -> str:
    """Which of some words may have been meant; empty for none."""
    found = get_close_matches(word, re.findall(r"[\w-]+", known), n=1)
    return f"; did you mean {found[0]}?" if found else ""


def prepare() -> None:
    """To be called before torch, AReaL or SGLang is imported, or transformers.

    Raises
    ------
    UserError
        A package is missing, or of a version that this one doesn't work with.
    """
    check_versions()
    enable_in_this_process()


def at_least(option: str, value: float | None, least: float, mend: str = "") -> None:
    """A UserError if a number is given and too small; it ends with `mend`."""
    if value is not None and value < least:
        raise UserError(
            f"{option}: expected a number >= {least}, found {value:g}{mend}"
        )


def note(text: str) -> None:
    """Say something on the way."""
    print(text, file=sys.stderr, flush=True)


def check_own(config: str | None, overrides: list[str]) -> None:
    """Refuse a wrong file or key of a command whose --config is optional."""
    if config is not None:
        check_early(config, overrides, paths=())
    elif overrides:
        raise UserError(
            f"expected --config FILE beside key=value, found {overrides[0]} without "
            "it; give both"
        )


def config_file(name: str) -> Path:
    """A configuration that comes with the package."""
    return Path(__file__).resolve().parents[1] / "configs" / name


def quoted(value: object) -> str:
    """A value of a `key=value` override, whatever characters a path has."""
    text = str(value)
    if not isinstance(value, Path):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def check_unused(
    folder: Path, option: str = "--out", mend: str = "choose another"
) -> None:
    """Refuse a folder that something is in; the line ends with `mend`."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{option}: expected a new or empty folder, found {folder} in use; {mend}"
        )


def output_file(path: str, option: str, endings: tuple[str, ...] = ()) -> Path:
    """A file of `option`, tried before minutes are spent; what is there stays till it
    is replaced, and that is said.

    Without `endings` any name will do.

    Raises
    ------
    UserError
        Its name ends in none of `endings`, or it can't be written.
    """
    file = Path(path)
    if endings and file.suffix.lower() not in endings:
        known = " or ".join(filter(None, (", ".join(endings[:-1]), endings[-1])))
        raise UserError(
            f"{option}: expected a name that ends in {known}, found {path}; change its "
            "ending"
        )
    there = file.exists()
    if file.is_file() and (was := file.stat()).st_size:
        date = datetime.fromtimestamp(was.st_mtime).isoformat(" ", "minutes")
        note(f"{option}: {path}, of {date}, will be replaced")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("a").close()
    except OSError as error:
        raise UserError(
            f"{option}: expected a file that can be written, found {path}: "
            f"{error.strerror}; name another"
        ) from error
    if not there:
        file.unlink()
    return file
