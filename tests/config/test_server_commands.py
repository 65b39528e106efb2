"""SGLang's own argument parser, with its own checks, takes every server's command.

In a process of its own, as on a machine without a GPU: what SGLang chooses by the GPU
(attention kernels, CUDA graphs) is not covered. The models' real dimensions are there,
weights are not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from areal_cppo.config.areal_fields import BLOCKS
from areal_cppo.run.dry_run import server_command
from areal_cppo.serving.cpu import cpu_environment
from tests.config.shipped import NAMES

LAUNCHER = "areal_cppo.serving.launch"

# As the launcher's main does, up to the start.
PROGRAM = textwrap.dedent(
    """
    import argparse
    import json
    import sys

    from sglang.srt.server_args import ServerArgs, prepare_server_args

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    known = {a.dest: list(a.choices) for a in parser._actions if a.choices}
    print("ANSWER", json.dumps(["choices", known]))
    for name, arguments in json.load(sys.stdin).items():
        try:
            args = prepare_server_args(arguments)
            args.check_server_args()
            said = {
                "model": args.get_model_config().hf_config.model_type,
                "context_length": args.context_length,
                "adapters": [ref.lora_name for ref in args.lora_paths or []],
                "enable_lora": bool(args.enable_lora),
                "skip_tokenizer_init": args.skip_tokenizer_init,
                "multimodal": args.enable_multimodal,
            }
        except (Exception, SystemExit) as error:
            said = {"error": f"{type(error).__name__}: {error}"}
        print("ANSWER", json.dumps([name, said]))
    """
)


def parse(commands: dict[str, list[str]]) -> dict[str, dict]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(commands),
        env=os.environ | cpu_environment(os.environ),
        capture_output=True,
        text=True,
        timeout=240,
    )
    lines = [line[7:] for line in done.stdout.splitlines() if line[:7] == "ANSWER "]
    answers = dict(json.loads(line) for line in lines)
    assert answers.keys() == {*commands, "choices"}, done.stderr[-2000:]
    return answers


@pytest.mark.slow
def test_sglang_takes_every_command(load):
    configs = {name: load(name) for name in NAMES}
    commands = {}
    for name, config in configs.items():
        command = server_command(config)
        assert command[:3] == ["python3", "-m", LAUNCHER]
        commands[name] = command[3:]
    broken = [*commands["triangles.yaml"], "--no-such-flag", "1"]
    answers = parse(commands | {"broken": broken})
    assert "SystemExit" in answers.pop("broken")["error"]
    choices = answers.pop("choices")
    rows = {name: row for name, row in BLOCKS["sglang"].items() if name in choices}
    assert len(rows) >= 7
    for name, row in rows.items():
        for value in choices[name]:
            assert row.accepts(value), f"sglang.{name}={value}"
        assert set(getattr(row, "names", choices[name])) == set(choices[name]), name
    for name, config in configs.items():
        lora = config.actor.use_lora
        assert answers[name] == {
            "model": "qwen2_5_vl",
            "context_length": config.sglang.context_length,
            "adapters": ["cppo-v0"] if lora else [],
            "enable_lora": lora,
            "skip_tokenizer_init": True,
            "multimodal": True,
        }, name
