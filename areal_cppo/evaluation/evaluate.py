"""One evaluation from the configuration to its numbers."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from areal.api.alloc_mode import ModelAllocation
from transformers import AutoProcessor

from areal_cppo import __version__
from areal_cppo.config import TASK_NAMES
from areal_cppo.config.experiment import CPPOConfig
from areal_cppo.errors import RunError, UserError
from areal_cppo.evaluation.asking import Asker, FirstProblems
from areal_cppo.evaluation.client import Client
from areal_cppo.evaluation.folder import EvaluationFolder
from areal_cppo.evaluation.model import fingerprint
from areal_cppo.evaluation.scoring import Scorer
from areal_cppo.evaluation.summary import GREEDY, summarize
from areal_cppo.rollout.first_look import try_reward
from areal_cppo.serving.cpu import needs_shim
from areal_cppo.serving.server import GenerationServer
from areal_cppo.tasks.experiment import load_task

# Requests at a time and server where the configuration has no number of its own.
_CONCURRENCY = 128
_START_SECONDS = 1800.0  # to load a large model from a slow disk

Note = Callable[[str], None]


class Evaluation:
    """Greedy accuracy and average-at-k of a model on its configuration's problems.

    Parameters
    ----------
    config
        The experiment; its `actor.path` and `tokenizer_path` are the model's folder.
    k
        Responses per problem besides the greedy one; 0 for none.
    limit
        Problems, the first so many; `None` for all.
    out
        The evaluation's folder.
    servers
        Addresses of running servers of the model; none: one is started.
    note
        Told in a line what happens.

    Raises
    ------
    UserError
        There are no problems to measure on, or `out` is of another evaluation.
    """

    def __init__(
        self,
        config: CPPOConfig,
        k: int,
        limit: int | None,
        out: Path,
        servers: list[str],
        note: Note,
    ) -> None:
        self.config = config
        self.k = k
        self.servers = servers
        self.note = note
        self.model = Path(config.actor.path)
        if not servers:
            _check_device(config)
        self.task = load_task(config, note)
        self.processor = AutoProcessor.from_pretrained(self.model)
        problems, self.bad_rows = self._problems(limit)
        self.folder = EvaluationFolder(out, self._settings(len(problems)))
        self.dataset = FirstProblems(problems, limit or len(problems))
        if config.reward.function:
            for line in try_reward(self.task.workflow_kwargs, self.dataset[0]):
                note(line)

    def _settings(self, problems: int) -> dict[str, Any]:
        """All that an answer to a problem depends on.

        Not `k` and `limit`: an evaluation may go on with more of both.
        """
        config = self.config
        generation = asdict(config.eval_gconfig)
        del generation["n_samples"], generation["greedy"]
        data = config.valid_dataset
        synthetic = config.data.source in TASK_NAMES
        shift = config.heldout.shift
        return {
            "model": str(self.model),
            "weights": fingerprint(self.model),
            "data": asdict(config.data),
            # A synthetic task draws as many as are asked for, always the same.
            "problems": None if synthetic else problems,
            **({} if shift == "none" else {"shift": shift}),
            "valid_dataset": data
            and {"path": data.path, "split": data.split, "shuffle": data.shuffle},
            "generation": generation,
            "sglang": {
                name: getattr(config.sglang, name)
                for name in ("dtype", "kv_cache_dtype", "context_length")
            },
            "reward_fn": self.task.workflow_kwargs["reward_fn"],
            "timeout_seconds": config.reward.timeout_seconds,
            **(self._own_reward() if config.reward.function else {}),
        }

    def _own_reward(self) -> dict[str, Any]:
        """What verdicts by a function of the user's own depend on, its file too."""
        reward = self.config.reward
        file = Path(reward.function.rpartition(":")[0])
        text = file.read_bytes() if file.suffix == ".py" else b""
        return {
            "reward": {"weights": reward.weights, "sees": reward.sees},
            "reward_file": sha256(text).hexdigest() if text else None,
            "correct_reward": self.config.actor.correct_reward,
        }

    def _problems(self, limit: int | None) -> tuple[Any, dict[str, int]]:
        """All problems, and how many rows of the data are none, by reason."""
        if self.config.data.source in TASK_NAMES:
            size = limit or self.config.heldout.size
            if not size:
                raise UserError(
                    "heldout.size: expected at least 1, found 0; give --limit N"
                )
            return self.task.heldout_dataset(self.processor, size), {}
        dataset = self.task.valid_dataset()
        if dataset is None:
            raise UserError(
                "valid_dataset: expected the data to measure on, found none in the "
                "configuration; set valid_dataset.path, .split and .type=rl"
            )
        return dataset, dict(dataset.counts)

    def run(self, done: Callable[[], None]) -> dict[str, Any]:
        """Ask what was not asked yet; returns what `evaluation.json` holds.

        That file is written whatever ends the run; `finished` says whether all was
        asked.

        Parameters
        ----------
        done
            Called after each problem.
        """
        begin = time.monotonic()
        finished = False
        try:
            samples = (GREEDY, *range(self.k))
            keys = ((i, s) for i in range(len(self.dataset)) for s in samples)
            if all(map(self.folder.done, keys)):
                self.note("all answers are there already; no server is asked")
            else:
                self._ask_servers(done)
            finished = True
        finally:
            result = self._result(time.monotonic() - begin, finished)
            self.folder.conclude(result)
        return result

    def _ask_servers(self, done: Callable[[], None]) -> None:
        """Ask those that were named, or one of its own, for what is missing."""
        with ExitStack() as stack:
            server = None if self.servers else self._start_server(stack)
            scorer = stack.enter_context(
                Scorer(
                    self.task.workflow_kwargs["reward_fn"],
                    self.config.reward,
                    self.config.actor.correct_reward,
                )
            )
            addresses = [server.address] if server else self.servers
            try:
                asyncio.run(self._ask(addresses, scorer, done))
            except BaseExceptionGroup as group:
                if server and server.process.poll() is not None:
                    raise RunError(server.obituary()) from group
                raise _first_error(group) from group

    async def _ask(
        self, addresses: list[str], scorer: Scorer, done: Callable[[], None]
    ) -> None:
        config = self.config
        slots = len(addresses) * (config.sglang.max_running_requests or _CONCURRENCY)
        # Twice as many problems as fill the slots: some prepare, some are judged.
        problems = 2 * -(-slots // (self.k + 1))
        async with Client(
            addresses, slots, config.rollout.request_timeout, self.note
        ) as client:
            asker = Asker(
                self.processor,
                config.eval_gconfig,
                config.sglang.context_length,
                client,
                scorer,
                self.folder,
            )
            await asker.ask_all(self.dataset, self.k, problems, done)

    def _start_server(self, stack: ExitStack) -> GenerationServer:
        """A fresh server, ended with `stack`."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        backend = self.config.rollout.backend
        parallel = ModelAllocation.from_str(backend, name="rollout").parallel
        # Adapters are part of the weights here.
        settings = asdict(self.config.sglang) | {
            "model_path": str(self.model),
            "enable_lora": None,
            "max_lora_rank": None,
            "lora_paths": None,
        }
        self.note(f"starting SGLang; log: {self.folder.log}")
        server = stack.enter_context(
            GenerationServer(
                self.model,
                port,
                log_path=self.folder.log,
                tensor_parallel=parallel.tp_size,
                settings=settings,
            )
        )
        seconds = server.wait_until_ready(_START_SECONDS)
        self.note(f"ready after {seconds:.0f} s")
        return server

    def _result(self, seconds: float, finished: bool) -> dict[str, Any]:
        """What `evaluation.json` holds, of the problems and samples asked for."""
        records = [
            record
            for (index, sample), record in self.folder.records.items()
            if index < len(self.dataset) and (sample == GREEDY or sample < self.k)
        ]
        return {
            "finished": finished,
            "model": str(self.model),
            "servers": self.servers or None,
            "problems": len(self.dataset),
            "k": self.k,
            "temperature": self.config.eval_gconfig.temperature,
            **summarize(records),
            "bad_rows": self.bad_rows,
            "seconds": round(seconds, 1),
            "config_digest": self.folder.digest,
            "version": __version__,
        }


def _check_device(config: CPPOConfig) -> None:
    if needs_shim() and config.sglang.device != "cpu":
        raise UserError(
            "sglang.device: expected cpu on a machine where torch finds no GPU, found "
            f"{config.sglang.device}; take the block sglang of configs/triangles.yaml "
            "or name a server with --server"
        )


def _first_error(group: BaseExceptionGroup) -> BaseException:
    """Of the errors with which tasks ended; one task's ends the others."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
