"""`areal-cppo bench rollout`: generation servers under requests of one shape."""

from __future__ import annotations

import argparse
import json
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from areal_cppo.cli.bench_options import (
    at_least,
    json_target,
    note,
    numbers,
    picture_target,
)
from areal_cppo.errors import UserError
from areal_cppo.serving.cpu import enable_in_this_process

_READY_SECONDS = 900.0


def add_rollout(kinds: Any) -> None:
    """Add `rollout` to the parser of `bench`."""
    rollout = kinds.add_parser(
        "rollout", help="generation servers: tokens/s and latency by concurrency"
    )
    rollout.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="URL",
        help="a running SGLang server, or several of one model; else one is started",
    )
    rollout.add_argument(
        "--model",
        metavar="DIR",
        help="the model's folder (with --server, if it isn't where the server says)",
    )
    rollout.add_argument(
        "--token-file",
        metavar="FILE",
        help="with the token that --server asks for (SGLang's --api-key)",
    )
    rollout.add_argument(
        "--prompt-tokens", type=int, required=True, metavar="N", help="of text"
    )
    rollout.add_argument("--response-tokens", type=int, required=True, metavar="N")
    rollout.add_argument(
        "--image-size",
        type=int,
        default=0,
        metavar="N",
        help="side of an image, pixels; its tokens come on top (no image)",
    )
    rollout.add_argument(
        "--group", type=int, default=1, metavar="N", help="responses a prompt (1)"
    )
    rollout.add_argument(
        "--concurrency",
        required=True,
        metavar="N,N,...",
        help="requests in flight, all servers together",
    )
    rollout.add_argument(
        "--requests", type=int, required=True, metavar="N", help="at each concurrency"
    )
    rollout.add_argument(
        "--warmup",
        type=int,
        metavar="N",
        help="requests before, at each concurrency, that don't count (as many as are "
        "in flight)",
    )
    rollout.add_argument(
        "--weight-update",
        metavar="DIR",
        help="measure again with a weight update in the middle, from this folder",
    )
    rollout.add_argument(
        "--slots",
        type=int,
        metavar="N",
        help="requests that a started server runs at a time (64 without a GPU)",
    )
    rollout.add_argument(
        "--timeout", type=float, default=600.0, metavar="S", help="of a request (600)"
    )
    rollout.add_argument("--seed", type=int, default=1, help="of prompts (1)")
    rollout.add_argument("--json", metavar="FILE", help="write the numbers there")
    rollout.add_argument("--plot", metavar="FILE", help="draw them there")


def bench_rollout(args: argparse.Namespace) -> int:
    """Run it; the exit status."""
    from areal_cppo.bench.rollout_prompts import Shape

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
    token = _token(args)
    target, picture = json_target(args.json), picture_target(args.plot)
    enable_in_this_process()
    from areal_cppo.serving.server import check_model

    weights = None
    if args.weight_update:
        weights = check_model(args.weight_update, "--weight-update").absolute()
    if args.model:
        check_model(args.model)
    from areal_cppo.bench.quiet import quiet

    with quiet(), ExitStack() as stack:
        addresses, model = _servers(args, shape, max(concurrencies), token, stack)
        from areal_cppo.bench.rollout import RolloutBench
        from areal_cppo.bench.rollout_prompts import PromptMaker

        make_prompt = PromptMaker(model, shape, args.seed)
        bench = RolloutBench(addresses, make_prompt, weights, args.timeout, note, token)
        workload = asdict(shape) | {
            "prompt_tokens_with_image": len(make_prompt().input_ids),
            "model": str(model),
            "seed": args.seed,
            "slots": args.slots,
        }
        return _measure(args, bench, concurrencies, workload, target, picture)


def _measure(
    args: argparse.Namespace,
    bench: Any,
    concurrencies: list[int],
    workload: dict[str, Any],
    target: Path | None,
    picture: Path | None,
) -> int:
    from areal_cppo.bench import results, rollout_results

    document = results.describe_run() | {
        "kind": "rollout",
        "complete": False,
        "servers": bench.addresses,
        "workload": workload,
    }
    points: list = []
    try:
        warmup = args.warmup
        for concurrency in concurrencies:
            before = concurrency if warmup is None else warmup
            bench.measure([concurrency], args.requests, before, points)
        document["complete"] = True
    except KeyboardInterrupt:
        note("interrupted; what was measured is kept")
        raise
    finally:
        described = [point.describe() for point in points if point.answers]
        document["points"] = described
        if described:
            print(rollout_results.table(described))
            if all(p["first_token_seconds"] is None for p in described):
                note(
                    "no time to first token: the server doesn't tell it; start it with "
                    "--enable-metrics"
                )
        if target is not None:
            target.write_text(json.dumps(document, indent=1) + "\n")
            print(f"numbers: {target}")
        if picture is not None and described:
            print(f"picture: {rollout_results.draw(described, str(picture))}")
    return 0


def _servers(
    args: argparse.Namespace, shape: Any, most: int, token: str, stack: ExitStack
) -> tuple[list[str], str]:
    """`host:port` of the servers, and the folder of their model."""
    if args.server:
        from areal_cppo.evaluation.client import check_server

        urls = [check_server(url) for url in args.server]
        model = args.model or _served_model(urls[0], token)
        return [_host_and_port(url) for url in urls], model
    from areal.utils.network import find_free_ports

    from areal_cppo.serving.server import GenerationServer

    server = stack.enter_context(
        GenerationServer(
            args.model,
            find_free_ports(1)[0],
            settings=_settings(args, shape, most),
        )
    )
    note(f"starting SGLang, log: {server.log_path}")
    seconds = server.wait_until_ready(_READY_SECONDS)
    note(f"ready after {seconds:.0f} s")
    return [_host_and_port(server.address)], args.model


def _settings(args: argparse.Namespace, shape: Any, most: int) -> dict[str, Any]:
    """Of a server that is started: it times requests, and has room for them."""
    from areal_cppo.config.serving import CPU_SETTINGS
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
    return url.removeprefix("http://")


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


def _served_model(url: str, token: str) -> str:
    """The folder of the model that a server says it serves, if it is here."""
    from areal_cppo.rollout.servers.http import authorization

    try:
        request = urllib.request.Request(
            f"{url}/model_info", headers=authorization(token)
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            path = json.load(reply).get("model_path")
    except (OSError, ValueError, AttributeError, urllib.error.URLError):
        path = None
    if path and (Path(path) / "config.json").is_file():
        return path
    raise UserError(
        f"--model: expected the folder of the model that {url} serves, to make prompts "
        f"with, found {path or 'none'}; give it"
    )
