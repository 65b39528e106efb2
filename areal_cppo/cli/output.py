"""The file that a command was told to write."""

from __future__ import annotations

from pathlib import Path

from areal_cppo.errors import UserError


def output_file(path: str, option: str, endings: tuple[str, ...] = ()) -> Path:
    """A file of `option`, tried before minutes are spent; what is there stays.

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
