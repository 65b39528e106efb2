"""The rates file: what is read, interpolated and refused; lengths; the shipped files.

Covers each field's line for a wrong value, both ways of the file, distributions against
their own samples, and that docs/throughput holds what the roofline gives.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from areal_cppo.errors import UserError
from areal_cppo.plan.distributions import Empirical, Fixed, Lognormal
from areal_cppo.plan.rates import parse_rates, read_rates, write_rates
from areal_cppo.plan.setting import Setting
from tests.plan.roofline import cases, main

FOLDER = Path(__file__).parents[2] / "docs" / "throughput"


def test_a_file_is_read_as_it_was_written(rates, tmp_path):
    for lengths in (
        {"kind": "fixed", "value": 7},
        {"kind": "empirical", "values": [3, 3, 9]},
        {"kind": "lognormal", "median": 5.5, "sigma": 0.5, "maximum": 40},
    ):
        before = rates(("response_tokens", lengths), ("measured", {"machine": "m"}))
        write_rates(tmp_path / "rates.json", before)
        assert read_rates(tmp_path / "rates.json") == before


def test_the_decode_curve(rates):
    server = rates(("server.decode", [[2, 10], [4, 16]]), ("server.slots", 8)).server
    found = [server.tokens_per_second(n) for n in (0, 1, 2, 3, 4, 8)]
    assert found == [0, 5, 10, 13, 16, 16]
    assert server.best_tokens_per_second == 16


def test_the_best_speed_is_one_within_the_slots(rates):
    server = rates(("server.decode", [[1, 10], [4, 40]]), ("server.slots", 2)).server
    assert server.best_tokens_per_second == 20


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("version", 2, "expected version 1, found 2"),
        ("server", [], "server: expected an object of named fields, found []"),
        ("server.gpus", 0, "server.gpus: expected a whole number >= 1, found 0"),
        ("server.slots", 1.5, "server.slots: expected a whole number >= 1, found 1.5"),
        ("server.decode", [], "server.decode: expected a list of [running requests"),
        ("server.decode", [[1, -5]], "server.decode[0][1]: expected a number > 0, fou"),
        ("server.decode", [[1]], "server.decode[0]: expected [running requests, token"),
        (
            "server.decode",
            [[2, 5], [1, 6]],
            "server.decode[1][0]: expected more running requests than the point before "
            "has (2), found 1",
        ),
        (
            "server.prefill_tokens_per_second",
            0,
            "server.prefill_tokens_per_second: expected a number > 0, found 0",
        ),
        ("server.request_seconds", -1, "server.request_seconds: expected a number >="),
        ("server.request_seconds", None, "request_seconds: expected a number >= 0, fo"),
        ("server.prefix_caching", 1, "prefix_caching: expected true or false, found 1"),
        ("server.speed", 1, "server: expected no other fields, found 'speed'"),
        ("trainer.token_seconds", -0.1, "trainer.token_seconds: expected a number >= "),
        ("trainer.step_seconds", True, "trainer.step_seconds: expected a number >= 0,"),
        ("weights", {}, "weights: expected the field 'update_seconds', found none"),
        ("contention", {"server_slowdown": 0.5}, "server_slowdown: expected a number "),
        ("reward_seconds", "1", 'reward_seconds: expected a number >= 0, found "1"'),
        ("reward_seconds", float("nan"), "reward_seconds: expected a number >= 0, fou"),
        ("prompt_tokens.kind", "normal", "kind: expected one of empirical, fixed, log"),
        ("prompt_tokens.value", 0, "prompt_tokens.value: expected a whole number >= 1"),
        (
            "response_tokens",
            {"kind": "empirical", "values": []},
            "response_tokens.values: expected a list of at least one length, found []",
        ),
        (
            "response_tokens",
            {"kind": "empirical", "values": [5, -2]},
            "response_tokens.values[1]: expected a number >= 1, found -2",
        ),
        (
            "response_tokens",
            {"kind": "lognormal", "median": 5, "sigma": -1, "maximum": 9},
            "response_tokens.sigma: expected a number >= 0, found -1",
        ),
        ("measured", {"date": 5}, "measured: expected an object of texts (command, "),
    ],
)
def test_a_wrong_field_gets_its_line(document, path, value, line):
    with pytest.raises(UserError) as refused:
        parse_rates(document((path, value)), "r.json")
    text = str(refused.value)
    assert line in text and text.startswith("r.json") and "\n" not in text


def test_a_train_step_takes_time(document):
    nothing = {"gpus": 1, "step_seconds": 0, "token_seconds": 0}
    with pytest.raises(UserError, match="trainer: expected step_seconds or token_sec"):
        parse_rates(document(("trainer", nothing)))


def test_a_micro_batch_takes_at_least_what_it_gathers(document):
    """5 s for 1,000 tokens, where computing takes 1 s; a rank alone gathers nothing."""
    trainer = {"gpus": 1, "step_seconds": 2, "token_seconds": 0.001}
    small = trainer | {"micro_batch_seconds": 5, "micro_batch_tokens": 1000}
    large = trainer | {"micro_batch_seconds": 5, "micro_batch_tokens": 10_000}
    found = {}
    for name, fields in {"small": small, "large": large, "none": trainer}.items():
        rates = parse_rates(document(("trainer", fields))).trainer
        found[name] = [rates.seconds(8000, ranks) for ranks in (1, 4)]
    assert found["small"] == pytest.approx([2 + 8, 2 + 10])
    assert found["large"] == found["none"] == pytest.approx([2 + 8, 2 + 2])


def test_a_file_that_is_none(tmp_path):
    for text, line in ((None, "No such file"), ("{", "not JSON"), ("[]", "an object")):
        path = tmp_path / "rates.json"
        if text is not None:
            path.write_text(text)
        with pytest.raises(UserError, match=line):
            read_rates(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("servers", 0),
        ("ranks", -1),
        ("batch", 0),
        ("staleness", -1),
        ("steps", 0),
        ("concurrent", 0),
        ("warmup", 20),
        ("admission", "none"),
        ("speeds", {1: 0.5}),
        ("speeds", {0: 0.0}),
        ("refill_seconds", 0),
    ],
)
def test_a_wrong_setting_gets_its_line(field, value):
    right = {"servers": 1, "ranks": 1, "batch": 1, "group": 1, "staleness": 0}
    with pytest.raises(UserError, match=f"^{field}: expected .*; "):
        Setting(**right | {field: value})


@pytest.mark.parametrize(
    "lengths",
    [
        Fixed(9),
        Empirical((3, 3, 9, 40)),
        Lognormal(50, 0.8, 200),
        Lognormal(50, 0.0, 20),
    ],
)
def test_means_are_those_of_samples(lengths):
    drawn = lengths.sample(np.random.default_rng(3), 160_000)
    assert drawn.min() >= 1 and drawn.max() <= lengths.maximum
    assert lengths.mean == pytest.approx(drawn.mean(), rel=0.01)
    longest = drawn.reshape(-1, 16).max(axis=1)
    assert lengths.longest(16) == pytest.approx(longest.mean(), rel=0.01)
    assert lengths.longest(1) == pytest.approx(lengths.mean, rel=0.01)


@pytest.mark.parametrize("name", sorted(cases()))
def test_shipped_rates_are_those_of_the_roofline(name):
    rates = cases()[name].rates()
    assert read_rates(FOLDER / f"{name}.json") == rates
    assert "nothing here was measured" in rates.measured["machine"]


def test_a_decode_step_reads_weights_and_keys_and_values():
    case = cases()["areal_1.5b_h800"]
    assert case.kv_bytes == 2 * 28 * 2 * 128 * 2
    bytes_read = 1.78e9 * 2 + 32 * case.context * case.kv_bytes
    seconds = bytes_read / (3.35e12 * 0.6) + 0.003
    assert case.tokens_per_second(32) == pytest.approx(32 / seconds)


def test_the_roofline_as_a_command(capsys):
    name = "areal_1.5b_h800"
    assert main([name]) == 0
    file = FOLDER / f"{name}.json"
    assert capsys.readouterr().out == file.read_text(encoding="utf-8")
    with pytest.raises(UserError, match="expected one of .*, found none; name one"):
        main(["none"])


def test_neither_torch_nor_areal_is_imported():
    """By the simulation, the search, the table, the plot and the command."""
    code = (
        "import sys\n"
        "from areal_cppo.plan import plots, search, table\n"
        "from areal_cppo.cli import plan\n"
        "found = {'torch', 'areal', 'sglang', 'transformers'} & set(sys.modules)\n"
        "sys.exit(f'imported {found}' if found else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
