"""The two ways in which a command can fail, and the exit status of each."""


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one line that says what was expected, what was found and how to
    mend it. The command line prints it without a traceback.
    """

    exit_status = 2


class RunError(Exception):
    """A failure at run time: something died, timed out or answered nonsense."""

    exit_status = 1
