"""A reward function, found by where it is: `package.module:name` or `FILE.py:name`.

For the process that calls it (`worker.py`); what is wrong is said in a few words.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType
from typing import Any


class CannotLoad(Exception):
    """There is no such function; says what was found."""


def load(function: str) -> Callable[..., Any]:
    """The function that `module:name`, `FILE.py:name` or `module.name` names.

    A file's folder is where it may import others from, after all else.

    Raises
    ------
    CannotLoad
        There is none, its module fails, or it can't be called.
    """
    place, _, name = function.rpartition(":" if ":" in function else ".")
    is_file = place.endswith(".py")
    try:
        module = _run_file(place) if is_file else import_module(place)
    except ModuleNotFoundError as error:
        if not is_file and error.name and f"{place}.".startswith(f"{error.name}."):
            raise CannotLoad(f"no module {place}") from None
        raise CannotLoad(_in_words(error)) from None
    except CannotLoad:
        raise
    except BaseException as error:  # SystemExit of a script, too
        raise CannotLoad(_in_words(error)) from None
    if not hasattr(module, name):
        near = get_close_matches(name, vars(module), n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise CannotLoad(f"no {name} in {os.path.basename(place)}{meant}")
    found = getattr(module, name)
    if not callable(found):
        raise CannotLoad(f"{name} of type {type(found).__name__}, no function")
    return found


def misfit(function: Callable[..., Any], names: Iterable[str]) -> str | None:
    """Why a function can't be called with keywords of these names; None if it can."""
    names = list(names)
    try:
        inspect.signature(function).bind(**dict.fromkeys(names))
    except TypeError as error:
        missing = "missing" in str(error)
        mend = "name it in reward.sees" if missing else "add **_ to its parameters"
        return f"{error}; {mend} (it is called with {', '.join(names)})"
    except ValueError:  # it has no signature, as some that are written in C
        pass
    return None


def _run_file(path: str) -> ModuleType:
    if not os.path.isfile(path):
        raise CannotLoad(f"no file {path}")
    name = "reward_file_" + os.path.basename(path).removesuffix(".py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    sys.path.append(os.path.dirname(path))
    spec.loader.exec_module(module)
    return module


def _in_words(error: BaseException) -> str:
    """Type, text and place of what a module raised when it was imported."""
    own = [
        (frame.filename, frame.lineno)
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and "importlib" not in frame.filename
    ]
    if isinstance(error, SyntaxError) and error.filename:
        own.append((error.filename, error.lineno))
    text = " ".join((getattr(error, "msg", None) or str(error)).split())
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{said}, line {own[-1][1]} of {os.path.basename(own[-1][0])}"
