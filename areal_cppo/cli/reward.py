"""`areal-cppo reward`: what a response is worth, and why."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from areal_cppo.config import TASK_NAMES
from areal_cppo.config.files import compose
from areal_cppo.config.keys import check_early, refused
from areal_cppo.errors import UserError
from areal_cppo.rewards.answers import final_answer
from areal_cppo.rewards.explain import explain
from areal_cppo.rewards.format import format_fault, without_end
from areal_cppo.rewards.own import GIVEN, REWARD_FN, check_pool
from areal_cppo.rewards.parts import Reward
from areal_cppo.rewards.pool import RewardError, RewardPool, RewardTimeout


def add_reward(commands: Any) -> None:
    """Add `reward` to the parser's commands."""
    command = commands.add_parser("reward", help="what a response is worth, and why")
    command.add_argument("--config", required=True, metavar="FILE")
    command.add_argument("--truth", required=True, metavar="TEXT", help="true answer")
    command.add_argument(
        "--response",
        required=True,
        metavar="TEXT",
        help="the response; - reads standard input, @FILE a file",
    )
    command.add_argument(
        "--question", default="", metavar="TEXT", help="the question, or whole prompt"
    )
    command.add_argument(
        "--sees",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what else reward.sees names, as JSON or text; may be repeated",
    )
    command.add_overrides()
    command.set_defaults(call=judge)


def judge(args: argparse.Namespace) -> int:
    """Say what a response is worth; the exit status, 0."""
    check_early(args.config, args.overrides, paths=())
    settings, source = _settings(args)
    response = _response(args.response)
    told = _told(args, settings.sees)
    synthetic = source in TASK_NAMES
    if settings.function:
        function = settings.function
    elif synthetic:
        from areal_cppo.tasks.responses import REWARD_FN as function
    else:
        function = REWARD_FN
    seconds, weights = settings.timeout_seconds, settings.part_weights
    with RewardPool(function, seconds, 1, weights) as pool:
        check_pool(pool, settings.sees)
        given = dict(zip(GIVEN, (args.question, response, [], []), strict=True))
        try:
            reward = pool.submit(**given, **told).result()
        except (RewardError, RewardTimeout) as error:
            found = str(error)
            if isinstance(error, RewardError) and error.text:
                found += f": {error.text}"
            raise UserError(
                f"reward.function: expected a number or parts by name, found {found}; "
                f"in training the response would be refused: correct {function}"
            ) from None
    lines = [f"function: {function}"]
    if not (settings.function or synthetic):
        lines = list(_reasons(args, response, reward))
    for line in [*lines, *_sum(reward, weights)]:
        print(line)
    return 0


def _settings(args: argparse.Namespace) -> tuple[Any, str]:
    """The block `reward`, checked, and `data.source`; AReaL is not imported."""
    from areal_cppo.config.blocks import DataConfig, RewardConfig

    path = Path(args.config)
    with refused(path, args.overrides):
        composed = compose(path, args.overrides)
        chosen = OmegaConf.create({"reward": OmegaConf.structured(RewardConfig)})
        given = OmegaConf.select(composed, "reward")
        reward = OmegaConf.to_object(OmegaConf.merge(chosen, {"reward": given or {}}))
        source = OmegaConf.select(composed, "data.source", default=DataConfig.source)
    return reward["reward"], source


def _response(text: str) -> str:
    if text == "-":
        return sys.stdin.read()
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(
            f"--response: expected a text file after @, found {text[1:]}: {why}; "
            "correct it"
        ) from None


def _told(args: argparse.Namespace, sees: list[str]) -> dict[str, Any]:
    """What the function sees of the problem."""
    known = {"answer": args.truth, "question": args.question, "query_id": "none"}
    for pair in args.sees:
        name, equals, text = pair.partition("=")
        if not equals or name not in sees:
            raise UserError(
                f"--sees: expected NAME=VALUE of reward.sees ({', '.join(sees)}), "
                f"found {pair}; drop it, or add it to reward.sees"
            )
        try:
            known[name] = json.loads(text)
        except ValueError:
            known[name] = text
    missing = [name for name in sees if name not in known]
    if missing:
        raise UserError(
            f"--sees: expected all of reward.sees, found no {', '.join(missing)}; add "
            f"--sees {missing[0]}=VALUE"
        )
    return {name: known[name] for name in sees}


def _reasons(args: argparse.Namespace, response: str, reward: Reward) -> Iterator[str]:
    """Why our own function gives what it gives."""
    text = without_end(response)
    box = final_answer(text)
    yield f"box: {'none, or empty, or never closed' if box is None else box}"
    yield from (f"  {line}" for line in explain(box, args.truth, args.question))
    fault = format_fault(text, args.question)
    yield f"format: {'kept' if fault is None else f'not kept, {fault}'}"
    differs = reward.parts.get("judges_differ")
    says = "right" if (reward.parts["answer"] == 1) != bool(differs) else "wrong"
    opinion = "no opinion" if differs is None else says
    yield f"math-verify (only counted): {opinion}"


def _sum(reward: Reward, weights: dict[str, float]) -> Iterator[str]:
    for name, value in reward.parts.items():
        paid = f" x {weights[name]:g}" if name in weights else ", not paid for"
        yield f"part {name}: {value:g}{paid}"
    yield f"reward: {reward.value:g}"
