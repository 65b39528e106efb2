"""What math-verify would say of an answer: counted beside the judge, never paid for.

Where the two differ often, one of them doesn't understand the answers of this dataset;
docs/rewards.md says where each is known to be wrong.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import signal
import threading
from collections.abc import Iterator

from math_verify import parse, verify

from areal_cppo.rewards.answers import MAX_CHARACTERS

# It warns that its time limits are off, and logs what it can't read.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)

SECONDS = 1.0

_GAP = r"[\s{}()]*"
_ENDLESS = re.compile(  # what no alarm ends: sums of this kind run in C
    rf"\d{_GAP}(?:\^|\*\*){_GAP}\d+{_GAP}(?:\^|\*\*)"  # a tower of powers
    r"|(?:\^|\*\*)\s*[{(][\d\s.+*/-]*(?:\^|\*\*)"  # the same inside an exponent
    rf"|(?:\^|\*\*){_GAP}-?{_GAP}\d{{4,}}|[eE]\d{{4,}}"  # a huge exponent
    r"|\d{3,}[\s})]*!|!\s*!"  # a huge factorial, or one of a factorial
)


class _TooLong(Exception):
    pass


@functools.lru_cache(4096)  # the responses of a group often agree
def second_opinion(answer: str | None, truth: str) -> bool | None:
    """Whether math-verify takes an answer for the truth.

    Parameters
    ----------
    answer
        The content of a box; None is wrong.
    truth
        The true answer.

    Returns
    -------
    bool or None
        None where it came to no end within a second, or can't be asked: outside of the
        main thread nothing could end it.
    """
    if answer is None:
        return False
    if any(len(t) > MAX_CHARACTERS or _ENDLESS.search(t) for t in (answer, truth)):
        return None
    if threading.current_thread() is not threading.main_thread():
        return None
    try:
        with _within(SECONDS):
            boxes = (rf"$\boxed{{{text}}}$" for text in (truth, answer))
            # Time limits of its own would end ours, and the process's.
            found = [parse(box, parsing_timeout=None) for box in boxes]
            return bool(verify(*found, timeout_seconds=None))
    except (_TooLong, RecursionError):
        return None


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _TooLong

    handler = signal.signal(signal.SIGALRM, stop)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)  # of the process around
        signal.signal(signal.SIGALRM, handler)
