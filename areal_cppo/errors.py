"""The two ways in which a command can fail, and the exit status of each."""

from collections.abc import Sequence


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one line that says what was expected, what was found and how to
    mend it. The command line prints it without a traceback.
    """

    exit_status = 2


class Problems(ValueError):
    """Several values that are wrong, a line each."""

    def __init__(self, lines: Sequence[str]):
        super().__init__("; ".join(lines))
        self.lines = list(lines)


def all_of(lines: Sequence[str]) -> UserError:
    """Everything that is to be mended, as one error: a line each, if there are more."""
    lines = list(dict.fromkeys(lines))
    if len(lines) == 1:
        return UserError(lines[0])
    return UserError("\n  ".join([f"{len(lines)} things to mend", *lines]))


class RunError(Exception):
    """A failure at run time: something died, timed out or answered nonsense."""

    exit_status = 1
