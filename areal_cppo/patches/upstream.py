"""Compares the packages below with what is written against them, and patches them.

A place is named as `pkgutil.resolve_name` has it: `package.module:Class.method`. What
isn't as expected is refused in one line, before anything was replaced: a patch that
misses its target would let a server listen everywhere, or log what is private.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

from areal_cppo.errors import UserError
from areal_cppo.patches.version import installed

NOTHING = "nothing"  # in place of a signature: what is put there is new
_PLAIN = (bool, int, float, str, type(None))
_STARS = {
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}


class ChangedUpstream(UserError):
    """An installed package isn't what this one was written against."""

    def __init__(self, place: str, expected: str, found: str):
        package = place.partition(":")[0].partition(".")[0]
        super().__init__(
            f"{place}: expected {expected}, found {found} in {package} "
            f"{_version(package)}; install the versions of requirements/, or adapt "
            "areal_cppo/patches (docs/upstream.md)"
        )


def expect(place: str, *signatures: str) -> Any:
    """What is at a place.

    Parameters
    ----------
    place
        As `areal.utils.network:gethostip`; its module is imported.
    signatures
        Those that it may have, as `signature_of` writes them; none: whatever is there;
        `NOTHING`: nothing is.

    Raises
    ------
    ChangedUpstream
        There is nothing, or something else.
    """
    if signatures == (NOTHING,):
        owner, name = _split(place)
        if hasattr(expect(owner), name):
            raise ChangedUpstream(place, NOTHING, "something there")
        return None
    try:
        found = resolve_name(place)
    except (ImportError, AttributeError) as error:
        wanted = f"it with {_either(signatures)}" if signatures else "it there"
        raise ChangedUpstream(place, wanted, f"nothing ({error})") from error
    if signatures and signature_of(found) not in signatures:
        raise ChangedUpstream(place, _either(signatures), signature_of(found))
    return found


def expect_inside(place: str, *names: str) -> None:
    """Refuse a function whose code doesn't hold these names or parts of texts.

    Raises
    ------
    ChangedUpstream
        It doesn't look one of them up any more.
    """
    code = inspect.unwrap(expect(place)).__code__
    held = [*code.co_names, *(text for text in code.co_consts if isinstance(text, str))]
    for name in names:
        if not any(name in text for text in held):
            raise ChangedUpstream(place, f"{name!r} in its code", "none")


def expect_code(place: str, *digests: str) -> None:
    """Refuse a function whose source isn't one with these `digest_of`.

    Raises
    ------
    ChangedUpstream
        It is another; what re-implements it may be wrong now.
    """
    found = digest_of(expect(place))
    if found not in digests:
        raise ChangedUpstream(place, f"code with digest {_either(digests)}", found)


def digest_of(function: Callable) -> str:
    """Of a function's source, without its white space."""
    source = "".join(inspect.getsource(function).split())
    return sha256(source.encode()).hexdigest()[:12]


def signature_of(function: Callable) -> str:
    """Its parameters, without annotations; defaults that are no plain values as `...`.

    A class is written as its constructor is called, a method with its `self`.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return f"{type(function).__name__} {function!r}"
    words, kind = [], None
    for each in parameters:
        if each.kind is each.KEYWORD_ONLY and kind not in (
            each.kind,
            each.VAR_POSITIONAL,
        ):
            words.append("*")
        kind = each.kind
        word = _STARS.get(kind, "") + each.name
        if each.default is not each.empty:
            plain = isinstance(each.default, _PLAIN)
            word += f"={each.default!r}" if plain else "=..."
        words.append(word)
    return f"({', '.join(words)})"


def _either(words: Sequence[str]) -> str:
    return " or ".join(words)


def patch(*places: str, signature: str | None = None, copies: str = "") -> Callable:
    """Decorates a function that makes what is put in a place.

    It is given what was there at first, and the arguments of the call; a call checks
    the place and patches it, and may be repeated.

    Parameters
    ----------
    places
        Where, as for `expect`.
    signature
        That all of them must have.
    copies
        Package in whose imported modules names that were imported from there are
        replaced, too.
    """

    wanted = () if signature is None else (signature,)

    def decorate(make: Callable) -> Callable[..., None]:
        @wraps(make)
        def apply(*args: Any) -> None:
            for place in places:
                if place not in _originals:
                    _originals[place] = expect(place, *wanted)
                _put(place, make(_originals[place], *args), copies)

        PATCHES[apply] = places, signature
        return apply

    return decorate


def original(place: str) -> Any:
    """What is at a place, or was before it was patched."""
    return _originals[place] if place in _originals else expect(place)


# Each with its places, and the signature that they must have.
PATCHES: dict[Callable, tuple[tuple[str, ...], str | None]] = {}
_originals: dict[str, Any] = {}
_current: dict[str, Any] = {}


def _put(place: str, new: Any, copies: str) -> None:
    owner, name = _split(place)
    old = _current.get(place, _originals[place])
    owners = [resolve_name(owner)]
    if copies:
        owners += [
            module
            for path, module in list(sys.modules.items())
            if path.partition(".")[0] == copies and isinstance(module, ModuleType)
            if vars(module).get(name) is old
        ]
    for each in owners:
        setattr(each, name, new)
    _current[place] = new


def _split(place: str) -> tuple[str, str]:
    """The place of what holds it, and its name there."""
    module, _, path = place.partition(":")
    owner, _, name = path.rpartition(".")
    return f"{module}:{owner}", name


def _version(package: str) -> str:
    if package == "areal":
        return f"{installed().version} in {installed().folder}"
    try:
        return version(package)
    except PackageNotFoundError:
        return "(no version)"
