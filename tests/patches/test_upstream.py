"""The guards of patches, on a made-up package: what is not as expected is refused.

That the real patches do what they should: tests/serving, tests/cluster, tests/rollout.
"""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from areal_cppo.errors import UserError
from areal_cppo.patches import torch as patch_torch
from areal_cppo.patches import upstream
from areal_cppo.patches.areal import launch_command
from areal_cppo.patches.upstream import (
    NOTHING,
    ChangedUpstream,
    expect,
    expect_code,
    expect_inside,
    patch,
    signature_of,
)
from areal_cppo.patches.version import LAUNCHERS, installed


def greet(name, *, loud=False):
    return f"hello {name}" + "!" * loud


class Greeter:
    def greet(self, name, times=1, *rest, sep=(), **more):
        return greet(name)


@pytest.fixture(autouse=True)
def package(monkeypatch):
    """`made_up`, and `made_up.user`, which has imported a name from it."""
    module, user = ModuleType("made_up"), ModuleType("made_up.user")
    module.greet, module.Greeter, module.user = greet, Greeter, user
    user.greet = greet
    monkeypatch.setitem(sys.modules, "made_up", module)
    monkeypatch.setitem(sys.modules, "made_up.user", user)
    for state in ("_originals", "_current", "PATCHES"):
        monkeypatch.setattr(upstream, state, {})
    monkeypatch.setattr(Greeter, "greet", Greeter.greet)
    return module


def refused(*words: str):
    return pytest.raises(ChangedUpstream, match=".*".join(words))


def test_a_refusal_is_one_line_for_the_user():
    with refused("^made_up:nope: expected it there, found nothing", "install") as error:
        expect("made_up:nope")
    assert isinstance(error.value, UserError) and "\n" not in str(error.value)


def test_signatures_are_compared_without_annotations():
    def annotated(a: int, b: str = "x", /, *, c: list = []) -> None: ...  # noqa: B006

    assert signature_of(annotated) == "(a, b='x', *, c=...)"
    assert expect("made_up:greet", "(name, *, loud=False)") is greet
    greeting = "(self, name, times=1, *rest, sep=..., **more)"
    assert expect("made_up:Greeter.greet", greeting) is Greeter.greet
    with refused(r"expected \(name\), found \(name, \*, loud=False\) in made_up"):
        expect("made_up:greet", "(name)")
    with refused("made_up.missing:greet"):
        expect("made_up.missing:greet", "(name)")


def test_what_a_function_looks_up_and_says():
    expect_inside("made_up:Greeter.greet", "greet")
    expect_inside("made_up:greet", "hello ")
    with refused("made_up:greet: expected 'goodbye' in its code, found none"):
        expect_inside("made_up:greet", "goodbye")


def test_code_that_is_done_in_another_way_here():
    expect_code("made_up:greet", upstream.digest_of(greet))
    with refused("made_up:greet: expected code with digest 0123"):
        expect_code("made_up:greet", "0123")


def test_a_patch_replaces_copies_and_may_be_repeated(package):
    @patch("made_up:greet", signature="(name, *, loud=False)", copies="made_up")
    def greeting(original, word):
        return lambda name, **how: f"{word} {original(name, **how)}"

    for word in ("well,", "so,"):
        greeting(word)
        for module in (package, package.user):
            assert module.greet("you") == f"{word} hello you"
    assert upstream.original("made_up:greet") is greet


def test_a_patch_that_misses_its_target_replaces_nothing(package):
    @patch("made_up:greet", "made_up:Greeter.greet", signature="(name)")
    def greeting(original):
        return None

    with refused("made_up:greet"):
        greeting()
    assert package.greet is greet and package.Greeter is Greeter


def test_a_new_method_hides_none():
    def add(original):
        return lambda self: "bye"

    patch("made_up:Greeter.bye", signature=NOTHING)(add)()
    assert Greeter().bye() == "bye"
    del Greeter.bye
    with refused("made_up:Greeter.greet: expected nothing, found something"):
        patch("made_up:Greeter.greet", signature=NOTHING)(add)()


class TestWouldFailSilently:
    def test_a_server_is_not_started_by_another_launcher(self):
        """Whatever AReaL's is called: only the one that is there is replaced."""
        known = installed().launcher
        command = ["python3", "-m", known, "--port", "1"]
        assert launch_command(command, "mine") == [*command[:2], "mine", *command[3:]]
        (other,) = set(LAUNCHERS) - {known}
        for command in (
            ["python3", "-m", "areal.v3.launch_server"],
            ["python3", "-m", "sglang.launch_server", "--model-path", known],
            ["python3", "-m", other],
            ["python3", known],
            ["python3", "-u", "-m", known],
            [known],
        ):
            with refused(f"expected a command that starts {known}"):
                launch_command(command, "mine")

    def test_a_store_whose_master_is_not_seen_does_not_listen(self, monkeypatch):
        from importlib import import_module

        rendezvous = import_module("torch.distributed.rendezvous")
        store = rendezvous.TCPStore
        monkeypatch.setattr(rendezvous, "TCPStore", store)
        patch_torch.tcp_store(lambda host, port: None)
        with refused("expected keywords after host and port"):
            rendezvous.TCPStore("127.0.0.1", 1, 1, True)

        class Other:
            def __init__(self):
                """Without a socket to be given."""

        with refused("expected an argument master_listen_fd"):
            patch_torch.tcp_store.__wrapped__(Other, lambda host, port: None)

    def test_requests_whose_error_says_something_else(self, monkeypatch):
        from areal.infra.utils import http

        from areal_cppo.patches import areal as patch_areal

        async def raising(payload=None):
            raise RuntimeError(f"Body: {payload}")

        monkeypatch.setattr(http, "arequest_with_retry", raising)
        with refused("arequest_with_retry: expected .*addr, endpoint"):
            patch_areal.arequest_with_retry(str)
        with refused("expected 'Payload: ' in its code"):
            patch_areal.arequest_with_retry.__wrapped__(raising, str)

    def test_records_are_redacted_beside_anothers_factory(self, monkeypatch):
        import logging
        from functools import wraps

        from areal_cppo.serving import redaction

        monkeypatch.setattr(redaction.patch_areal, "arequest_with_retry", lambda _: 0)
        before = logging.getLogRecordFactory()

        @wraps(logging.LogRecord, updated=())
        def anothers(*args, **kwargs):
            return logging.LogRecord(*args, **kwargs)

        try:
            logging.setLogRecordFactory(anothers)
            redaction.redact_logs()
            make = logging.getLogRecordFactory()
            record = make("x", 20, "file", 1, "SOME_API_KEY=secret", (), None)
            assert record.getMessage() == "SOME_API_KEY=<withheld>"
            redaction.redact_logs()
            assert logging.getLogRecordFactory() is make
        finally:
            logging.setLogRecordFactory(before)
