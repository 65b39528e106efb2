"""Validation while a run trains: its own servers answer problems it doesn't train on.

After the weights of a step are on the servers and before the next one begins, greedily
and `validation.k` times a problem. What was answered is in `validation/step-...`, what
came of it is a line of `evaluations.jsonl`. A validation that a stop or a lost server
cuts short is left as it is, so that the step can be finished; the run goes on with the
rest of it when it is started again.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from typing import Any

import aiohttp
from areal.api import ModelRequest, ModelResponse
from areal.utils import logging

from areal_cppo.config.experiment import CPPOConfig
from areal_cppo.config.operation import ServersConfig
from areal_cppo.evaluation.asking import Asker, FirstProblems
from areal_cppo.evaluation.folder import EvaluationFolder
from areal_cppo.evaluation.scoring import Scorer
from areal_cppo.evaluation.summary import GREEDY, summarize
from areal_cppo.folder import RunFolder, read_lines
from areal_cppo.metrics import Metric
from areal_cppo.rollout.refusals import Refused
from areal_cppo.rollout.requests import CPPOBackend
from areal_cppo.rollout.servers.fleet import Fleet
from areal_cppo.rollout.servers.generation import Generator, RequestFailed
from areal_cppo.run.observers import Keeper

logger = logging.getLogger("Validation")

_AT_A_TIME = 64  # requests a server; those of training go on beside them
_ATTEMPTS = 240  # half a second each: a server may be started again meanwhile
_LOOK_SECONDS = 0.5

SCOPE = "validation/"

METRICS = (
    Metric(
        "validation_accuracy",
        "Validation accuracy",
        "share",
        "Share of the validation problems answered right, greedily; after the step's "
        "update. 95 % intervals and answers by problem: evaluations.jsonl.",
        key=f"{SCOPE}accuracy",
    ),
    Metric(
        "validation_average_at_k",
        "Validation accuracy, sampled",
        "share",
        "Mean over the validation problems of the share of right responses among "
        "validation.k, sampled.",
        key=f"{SCOPE}average_at_k",
    ),
    Metric(
        "validation_reward",
        "Validation reward",
        "",
        "Mean reward of the greedy responses to validation problems.",
        key=f"{SCOPE}reward",
    ),
    Metric(
        "validation_seconds",
        "Validation time",
        "s",
        "Wall time of the validation; within the step's time, not in its rates.",
        key=f"{SCOPE}seconds",
    ),
)


class Validation:
    """Validates every so many steps, and keeps the best checkpoint.

    Parameters
    ----------
    config
        The experiment.
    dataset
        Problems; the first `validation.problems` are used.
    reward_fn
        Import string of the task's reward function.
    folder
        Of the run.
    say
        Tells the supervisor.
    trainer
        The `CPPOTrainer`.
    keeper
        Knows to which step the run could fall back, and the last one.
    interrupted
        Whether a stop is asked for, or the run can't go on.

    Attributes
    ----------
    stats
        Of the last validation, for AReaL's loggers; whoever logs it takes it away.
    """

    def __init__(
        self,
        config: CPPOConfig,
        dataset,
        reward_fn: str,
        folder: RunFolder,
        say: Callable[..., None],
        trainer,
        keeper: Keeper,
        interrupted: Callable[[], bool],
    ):
        self.config, self.folder, self.say = config, folder, say
        self.problems = FirstProblems(dataset, config.validation.problems)
        self.reward_fn = reward_fn
        self.trainer, self.keeper, self.interrupted = trainer, keeper, interrupted
        self.stats: dict[str, float] = {}
        self._lines = {line["step"]: line for line in read_lines(folder.evaluations)}

    def due(self, step: int) -> bool:
        """Whether there is to be one after this step, and is none yet."""
        every = self.config.validation.every
        wanted = step % every == 0 or step == self.keeper.last_step
        return wanted and step not in self._lines

    def begin(self, step: int) -> None:
        """`run` before the first step, or where a run goes on; no step logs it."""
        self.run(step)
        if self.stats:
            self.trainer.stats_logger.commit(0, 0, step, self.stats)
            self.stats = {}

    def run(self, step: int) -> None:
        """Validate the policy as it is on the servers after `step`, if it is due.

        Whatever goes wrong with it is told of, and is no reason to end a run.
        """
        if not self.due(step):
            return
        try:
            self._run(step)
        except Exception as error:
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            logger.exception("the validation failed")
            told = f"{type(error).__name__}: {error}"[:300]
            self.say("note", text=f"the validation after step {step} failed: {told}")

    def _run(self, step: int) -> None:
        began = time.monotonic()
        folder = EvaluationFolder(
            self.folder.validation(step), {"step": step, "problems": len(self.problems)}
        )
        if not asyncio.run(self._ask(folder, step)):
            self.say("note", text=f"the validation after step {step} was cut short")
            return
        seconds = time.monotonic() - began
        line = _line(step, folder.records, len(self.problems), seconds)
        self._keep(step, line)
        self._lines[step] = line
        self.folder.append(self.folder.evaluations, line)
        names = ("accuracy", "average_at_k", "reward", "seconds")
        self.stats = {SCOPE + n: line[n] for n in names if line[n] is not None}
        if left := len(self.problems) - line["n"]:
            reasons = ", ".join(f"{why} {n}" for why, n in line["refused"].items())
            self.say(
                "note",
                text=f"warning: the validation after step {step} leaves out {left} of "
                f"{len(self.problems)} problems ({reasons}): its accuracy is that of "
                "the others",
            )
        if line["n"]:
            told = {name: line[name] for name in ("step", "accuracy", "n", "of")}
            self.say("evaluation", **told)

    async def _ask(self, folder: EvaluationFolder, step: int) -> bool:
        """Ask what was not asked yet; False: interrupted."""
        config = self.config
        with Scorer(
            self.reward_fn, config.reward, config.actor.correct_reward
        ) as scorer:
            async with _Servers(self.trainer, config, step) as servers:
                asker = Asker(
                    self.trainer.processor,
                    config.eval_gconfig,
                    config.sglang.context_length,
                    servers,
                    scorer,
                    folder,
                )
                k = config.validation.k
                at_a_time = 2 * -(-servers.slots // (k + 1))
                asking = asyncio.ensure_future(
                    asker.ask_all(self.problems, k, at_a_time, lambda: None)
                )
                while not asking.done():
                    await asyncio.wait({asking}, timeout=_LOOK_SECONDS)
                    if self.interrupted():
                        asking.cancel()
                        await asyncio.wait({asking})
                        return False
                asking.result()
        return True

    def forget(self) -> None:
        """Remove checkpoints that were best once, where the run can't fall back to
        before the one that is."""
        on = self.config.recover.on
        kept = [
            line
            for line in self._lines.values()
            if line.get("checkpoint") and (not on or line["step"] <= self.keeper.saved)
        ]
        for line in kept[:-1]:
            shutil.rmtree(self.folder.path / line.pop("checkpoint"), ignore_errors=True)

    def _keep(self, step: int, line: dict[str, Any]) -> None:
        """Save a checkpoint that is better than all before, and note it in the line.

        The one that was best goes once the run can't fall back behind the new one.
        """
        self.forget()
        if not self.config.validation.keep_best or not step:
            return
        before = [other for other in self._lines.values() if other.get("checkpoint")]
        best = max((other["accuracy"] for other in before), default=-1.0)
        if not line["n"] or line["accuracy"] <= best:
            return
        folder = self.folder.checkpoint(step)
        if not folder.is_dir():
            self.trainer.save_checkpoint(folder)
        line["checkpoint"] = str(folder.relative_to(self.folder.path))


class _Servers:
    """The run's servers, as `evaluation.asking.Responder`; an async context manager."""

    def __init__(self, trainer, config: CPPOConfig, version: int):
        addresses = trainer.server_addresses()
        self.slots = _AT_A_TIME * len(addresses)
        self._semaphore = asyncio.Semaphore(self.slots)
        self._lora, self._version = config.actor.use_lora, version
        self._generator = Generator(
            Fleet(addresses),
            CPPOBackend(),
            ServersConfig(request_attempts=_ATTEMPTS),
            config.rollout.request_timeout,
            trainer.rollout.token,
        )

    async def __aenter__(self) -> _Servers:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._session.close()

    async def respond(self, request: ModelRequest) -> ModelResponse:
        async with self._semaphore:
            try:
                response, _ = await self._generator.generate(
                    self._session,
                    request,
                    with_lora=self._lora,
                    version=lambda: self._version,
                    is_paused=lambda: False,
                )
            except RequestFailed:
                raise Refused("request_failed") from None
        return response


def _line(step, records, n_problems: int, seconds: float) -> dict[str, Any]:
    """What `evaluations.jsonl` says of a validation.

    `correct` has a character a problem: 1 right, 0 wrong, - refused.
    """
    summary = summarize(records.values())
    greedy = summary["greedy"] or {}
    sampled = summary["average_at_k"] or {}
    outcomes = {
        index: str(int(record["correct"]))
        for (index, sample), record in records.items()
        if sample == GREEDY and not record["refused"]
    }
    return {
        "step": step,
        "accuracy": greedy.get("accuracy"),
        "interval": greedy.get("interval"),
        "n": greedy.get("n", 0),
        "correct": "".join(outcomes.get(index, "-") for index in range(n_problems)),
        "average_at_k": sampled.get("accuracy"),
        "average_at_k_interval": sampled.get("interval"),
        "k": len({sample for _, sample in records} - {GREEDY}),
        "reward": greedy.get("reward"),
        "format": greedy.get("format"),
        "cut_off": greedy.get("cut_off"),
        "tokens": greedy.get("tokens"),
        "refused": summary["refused"],
        "seconds": round(seconds, 1),
        "of": "validation",
    }
