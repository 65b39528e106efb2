"""Keeps images, prompts and secrets out of what a run's processes log.

AReaL's HTTP client puts the whole request into the text of its error: token ids of the
prompt and its images in base64. Whoever logs that error, or prints its traceback, logs
them.
"""

from __future__ import annotations

import logging
import os
import re
from functools import wraps
from typing import Any

from areal_cppo.patches import areal as patch_areal

# Runs of base64 as long as an image's; hashes, paths and names are shorter.
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{200,}={0,2}")
_PAYLOAD = re.compile(r"Payload: .*(?=\. Addr: )", re.DOTALL)
# Token ids are a prompt, too.
_NUMBERS = re.compile(r"\[\s*-?\d+(?:\s*,\s*-?\d+){31,}\s*\]")
_TEXTS = re.compile(
    r"""(['"](?:text|prompt|messages|image_data|images|input_ids)['"]\s*:\s*)"""
    r"""(\[[^\]]*\]|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
)
SECRET_NAME = re.compile(r"(?i)(api_?key|token$|password|passwd|secret|credential)")
_SET = re.compile(r"\b([A-Z][A-Z0-9_]*)=(\S+)")  # of the environment
_FEWEST_LETTERS = 10  # different ones, in any image
_SHORTEST_SECRET = 8  # a shorter value would be found in any text
WITHHELD = "<withheld>"
_REDACTS = "areal_cppo_redacts"  # of a record factory


def redact(text: str) -> str:
    """`text` without payloads, images, token ids and the secrets of the environment."""
    text = _PAYLOAD.sub(f"Payload: {WITHHELD}", text)
    text = _TEXTS.sub(rf"\1{WITHHELD}", text)
    text = _BASE64.sub(_hide_image, text)
    text = _NUMBERS.sub("<token ids>", text)
    text = _SET.sub(_hide_secret, text)
    for secret in _secrets():
        text = text.replace(secret, WITHHELD)
    return text


def redact_logs() -> None:
    """Redact all that this process logs from now on, and AReaL's request errors.

    Works on log records, so that no handler sees the text as it was. Tracebacks that
    are printed instead of logged go through AReaL's error text, which is mended at its
    source. May be called again.
    """
    make = logging.getLogRecordFactory()
    if not hasattr(make, _REDACTS):
        logging.setLogRecordFactory(_redacting(make))
    patch_areal.arequest_with_retry(redact)


def _hide_image(found: re.Match[str]) -> str:
    run = found[0]
    rule = len(set(run)) < _FEWEST_LETTERS  # a line drawn with dashes
    return run if rule else f"<{len(run)} characters>"


def _hide_secret(found: re.Match[str]) -> str:
    name, value = found[1], found[2]
    return f"{name}={WITHHELD if SECRET_NAME.search(name) else value}"


def _secrets() -> list[str]:
    return [
        value
        for name, value in os.environ.items()
        if SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET
    ]


def _redacting(make):
    formatter = logging.Formatter()

    @wraps(make, updated=())
    def factory(*args, **kwargs) -> logging.LogRecord:
        record = make(*args, **kwargs)
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            return record  # a mistake in a format: logging says so by itself
        clean = redact(message)
        if clean != message:
            record.msg, record.args = clean, None
        if record.exc_info and record.exc_info[0] is not None:
            # Formatters print this text, if it is there, and not the exception.
            record.exc_text = redact(formatter.formatException(record.exc_info))
        return record

    setattr(factory, _REDACTS, True)
    return factory


def withhold(settings: Any) -> None:
    """Put a word in place of every secret in nested settings."""
    for key, value in settings.items() if isinstance(settings, dict) else ():
        if isinstance(value, str) and value and SECRET_NAME.search(key):
            settings[key] = WITHHELD
        for item in value if isinstance(value, list) else [value]:
            withhold(item)
