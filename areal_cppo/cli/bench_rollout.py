"""`areal-cppo bench rollout`: generation servers under requests of one shape."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from areal_cppo.bench.rollout_prompts import Shape
from areal_cppo.cli.bench_options import (
    add_options,
    json_file,
    numbers,
    picture_file,
    write_numbers,
)
from areal_cppo.cli.common import at_least, note, prepare
from areal_cppo.config.keys import check_model
from areal_cppo.errors import UserError
from areal_cppo.serving.server import GenerationServer

_READY_SECONDS = 900.0
_OPTIONS = (
    (
        *("model", str, "DIR"),
        "the model's folder (with --server, if it isn't where the server says)",
    ),
    (
        *("token-file", str, "FILE"),
        "with the token that --server asks for (SGLang's --api-key)",
    ),
    ("prompt-tokens", int, "N", "of text"),
    ("response-tokens", int, "N", None),
    (
        *("image-size", int, "N"),
        "side of an image, pixels; its tokens come on top (no image)",
    ),
    ("group", int, "N", "responses a prompt (1)"),
    ("concurrency", str, "N,N,...", "requests in flight, all servers together"),
    ("requests", int, "N", "at each concurrency"),
    (
        *("warmup", int, "N"),
        "requests before, at each concurrency, that don't count (as many as are in "
        "flight)",
    ),
    (
        *("weight-update", str, "DIR"),
        "measure again with a weight update in the middle, from this folder",
    ),
    (
        *("slots", int, "N"),
        "requests that a started server runs at a time (64 without a GPU)",
    ),
    ("timeout", float, "S", "of a request (600)"),
    ("seed", int, None, "of prompts (1)"),
    ("json", str, "FILE", "write the numbers there"),
    ("plot", str, "FILE", "draw them there"),
)
_REQUIRED = ("prompt-tokens", "response-tokens", "concurrency", "requests")


def add_rollout(kinds: Any) -> None:
    """Add `rollout` to the parser of `bench`."""
    command = kinds.add_parser(
        "rollout", help="generation servers: tokens/s and latency by concurrency"
    )
    command.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="URL",
        help="a running SGLang server, or several of one model; else one is started",
    )
    add_options(command, _OPTIONS, _REQUIRED)
    usual = {"image_size": 0, "group": 1, "timeout": 600.0, "seed": 1}
    command.set_defaults(call=bench_rollout, **usual)


def bench_rollout(args: argparse.Namespace) -> int:
    """Run it; the exit status."""
    shape = Shape(args.prompt_tokens, args.response_tokens, args.image_size, args.group)
    concurrencies = numbers(args.concurrency, "--concurrency", 1)
    at_least("--warmup", args.warmup, 0)
    at_least("--slots", args.slots, 1)
    at_least("--timeout", args.timeout, 1)
    if args.requests < max(concurrencies):
        raise UserError(
            f"--requests: expected at least the largest concurrency, "
            f"{max(concurrencies)}, found {args.requests}; four times as many are good"
        )
    if not args.server and not args.model:
        raise UserError(
            "--server: expected the URL of a running server, or --model DIR to start "
            "one, found neither; give one of them"
        )
    if args.server and args.slots:
        raise UserError(
            "--slots: expected only with --model, for a server that is started, found "
            "--server; leave it out"
        )
    token, addresses = _token(args), [_host_and_port(url) for url in args.server]
    files = json_file(args), picture_file(args)
    weights = None
    if args.weight_update:
        weights = check_model(args.weight_update, "--weight-update").absolute()
    if args.model:
        check_model(args.model)
    prepare()
    from areal_cppo.bench.quiet import quiet

    with quiet(), ExitStack() as stack:
        from areal_cppo.bench.rollout import RolloutBench
        from areal_cppo.bench.rollout_prompts import PromptMaker
        from areal_cppo.evaluation.client import check_server

        for url in args.server:
            check_server(url)
        if addresses:
            model = args.model or _served_model(addresses[0], token)
        else:
            model = args.model
            addresses = [_start(args, shape, max(concurrencies), stack)]
        make_prompt = PromptMaker(model, shape, args.seed)
        bench = RolloutBench(addresses, make_prompt, weights, args.timeout, note, token)
        workload = asdict(shape) | {
            "prompt_tokens_with_image": len(make_prompt().input_ids),
            "model": str(model),
            "seed": args.seed,
            "slots": args.slots,
        }
        _measure(args, bench, concurrencies, workload, *files)
    return 0


def _measure(
    args: argparse.Namespace,
    bench: Any,
    concurrencies: list[int],
    workload: dict[str, Any],
    target: Path | None,
    picture: Path | None,
) -> None:
    """Measure, and tell what was measured, also after a Ctrl-C."""
    from areal_cppo.bench import machine, rollout_results

    document = machine.describe_run() | {
        "kind": "rollout",
        "complete": False,
        "servers": bench.addresses,
        "workload": workload,
    }
    points: list = []
    try:
        for concurrency in concurrencies:
            before = concurrency if args.warmup is None else args.warmup
            bench.measure([concurrency], args.requests, before, points)
        document["complete"] = True
    except KeyboardInterrupt:
        note("interrupted; what was measured is kept")
        raise
    finally:
        described = [point.describe() for point in points if point.answers]
        if described:
            print(rollout_results.points_table(described))
            if all(point["first_token_seconds"] is None for point in described):
                note(
                    "no time to first token: the server doesn't tell it; start it with "
                    "--enable-metrics"
                )
        write_numbers(target, document | {"points": described})
        if picture is not None and described:
            rollout_results.draw_points(described, picture)
            print(f"picture: {picture}")


def _start(args: argparse.Namespace, shape: Shape, most: int, stack: ExitStack) -> str:
    """Start a server for at most so many requests at a time; its `host:port`."""
    from areal.utils.network import find_free_ports

    settings, port = _settings(args, shape, most), find_free_ports(1)[0]
    server = stack.enter_context(GenerationServer(args.model, port, settings=settings))
    note(f"starting SGLang, log: {server.log_path}")
    seconds = server.wait_until_ready(_READY_SECONDS)
    note(f"ready after {seconds:.0f} s")
    return _host_and_port(server.address)


def _settings(args: argparse.Namespace, shape: Shape, most: int) -> dict[str, Any]:
    """Of a server that is started: it times requests, and has room for them."""
    from areal_cppo.config.engines import CPU_SETTINGS
    from areal_cppo.serving.cpu import needs_shim

    settings: dict[str, Any] = {"enable_metrics": True}
    if args.slots:
        settings["max_running_requests"] = args.slots
    if needs_shim():
        slots = min(most, args.slots or int(CPU_SETTINGS["max_running_requests"]))
        image = (-(-shape.image_size // 28)) ** 2
        tokens = shape.prompt_tokens + image + shape.response_tokens + 16
        settings["max_total_tokens"] = max(
            int(CPU_SETTINGS["max_total_tokens"]), slots * tokens
        )
    return settings


def _host_and_port(url: str) -> str:
    if not url.startswith("http://"):
        raise UserError(
            f"--server: expected an address such as http://127.0.0.1:30000, found "
            f"{url}; servers of training speak http"
        )
    return url.removeprefix("http://").rstrip("/")


def _token(args: argparse.Namespace) -> str:
    """What `--token-file` holds; nothing without it."""
    if args.token_file is None:
        return ""
    try:
        token = Path(args.token_file).read_text(encoding="utf-8").strip()
        found = "an empty one"
    except (OSError, ValueError) as error:
        token, found = "", f"none that can be read ({type(error).__name__})"
    if not token or not args.server:
        found = found if args.server else "no --server that asks for it"
        raise UserError(
            f"--token-file: expected a file with the token of --server, found {found} "
            f"({args.token_file}); correct it"
        )
    return token


def _served_model(address: str, token: str) -> str:
    """The folder of the model that a server says it serves, if it is here."""
    from areal.api.io_struct import HttpRequest

    from areal_cppo.rollout.servers.client import ServerClient, ServerError

    try:
        request = HttpRequest("/model_info", None, "GET")
        said = ServerClient(address, token).send(request, timeout=30)
        path = said.get("model_path") if isinstance(said, dict) else None
    except ServerError:
        path = None
    if path and (Path(path) / "config.json").is_file():
        return path
    raise UserError(
        f"--model: expected the folder of the model that http://{address} serves, to "
        f"make prompts with, found {path or 'none'}; give it"
    )
