"""Leave out what AReaL, transformers and torch say at every step, but for errors."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Within, only errors are logged; import AReaL's engine within, too.

    AReaL replaces the root of Python's logging whenever it makes a logger, so that
    levels set there are soon lost. It is told where it keeps its own: the loggers that
    there are, and the settings that new ones are made from.
    """
    from areal.utils import logging as areal_logging
    from transformers.utils import logging as transformers_logging

    levels = [
        (logger, logger.level) for logger in areal_logging._created_loggers.values()
    ]
    handlers = areal_logging.log_config["handlers"].values()
    limits = [(handler, handler["level"]) for handler in handlers]
    for logger, _ in levels:
        logger.setLevel(logging.ERROR)
    for handler, _ in limits:
        handler["level"] = "ERROR"
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.enable_progress_bar()
        for logger, level in levels:
            logger.setLevel(level)
        for handler, level in limits:
            handler["level"] = level
