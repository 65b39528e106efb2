"""AReaL's asynchronous loop as a discrete-event simulation.

What happens, in the order of AReaL 1.0.4's `PPOTrainer.train`: the trainer waits for a
batch, trains, stops new groups, interrupts the servers, hands over the weights, lets
groups start again, and waits for the next batch. Groups go to the servers in turn,
whatever those have to do already. An interrupted response goes on at the same server,
which prefills the prompt and what there is of the response again.

What is left out: `NOT_MODELLED` of `areal_cppo.plan.table`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import simpy

from areal_cppo.plan.admission import Dispatcher, Group
from areal_cppo.plan.outcome import Outcome, Served, Step
from areal_cppo.plan.rates import Rates
from areal_cppo.plan.server import Request, Server
from areal_cppo.plan.setting import Setting

_DRAWN = 4096  # lengths drawn at a time


def simulate(rates: Rates, setting: Setting) -> Outcome:
    """Simulate `setting.steps` train steps.

    Parameters
    ----------
    rates
        How fast everything is, and how long prompts and responses are.
    setting
        What there is of it, and how it is run.
    """
    return _Simulation(rates, setting).run()


class _Simulation:
    def __init__(self, rates: Rates, setting: Setting):
        self.rates = rates
        self.setting = setting
        self.env = env = simpy.Environment()
        self.servers = [
            Server(
                env,
                rates.server,
                setting.speeds.get(i, 1.0),
                self._finished,
                self._busy_changed,
            )
            for i in range(setting.servers)
        ]
        self.dispatcher = Dispatcher(
            env, setting, setting.groups_at_once(rates), self._start_group
        )
        prompts, responses = np.random.SeedSequence(setting.seed).spawn(2)
        self._prompts = _lengths(rates.prompt_tokens, prompts)
        self._responses = _lengths(rates.response_tokens, responses)
        self._stopped = 0.0
        self._generating = 0  # servers
        self._work: simpy.Process | None = None
        self.steps: list[Step] = []
        self._warm: Served | None = None

    def run(self) -> Outcome:
        setting = self.setting
        self._warm = self._served()
        self.env.run(self.env.process(self._train()))
        dispatcher = self.dispatcher
        speeds = sum(server.speed for server in self.servers)
        return Outcome.of(
            setting,
            self.steps,
            {
                "started": dispatcher.started,
                "trained": dispatcher.trained,
                "waiting": len(dispatcher.results),
                "under_way": dispatcher.under_way,
            },
            self._served().since(self._warm),
            best=self.rates.server.best_tokens_per_second * speeds,
            slots=self.rates.server.slots,
        )

    # The trainer.

    def _train(self):
        env = self.env
        for number in range(self.setting.steps):
            start = env.now
            batch = yield env.process(self.dispatcher.wait_batch())
            ready = env.now
            tokens = sum(
                self.setting.group * group.prompt_tokens + group.response_tokens
                for group in batch
            )
            yield from self._compute(tokens, max(group.longest for group in batch))
            trained = env.now
            yield from self._update_weights()
            self.steps.append(
                self._step(batch, tokens, (start, ready, trained, env.now))
            )
            if number + 1 == self.setting.warmup:
                self._warm = self._served()

    def _compute(self, tokens: int, longest: int):
        """The rank with the most to do decides: a sequence is not split."""
        ranks, contention = self.setting.ranks, self.rates.contention
        most = max(tokens, longest * ranks)
        seconds = self.rates.trainer.seconds(most, ranks)
        self._slow_servers(contention.server_slowdown)
        if contention.trainer_slowdown == 1:
            yield self.env.timeout(seconds)
        else:
            self._work = self.env.process(self._shared_work(seconds))
            yield self._work
            self._work = None
        self._slow_servers(1.0)

    def _shared_work(self, seconds: float):
        """Slower while anything is generated."""
        while seconds > 0:
            slow = self.rates.contention.trainer_slowdown if self._generating else 1.0
            begin = self.env.now
            try:
                yield self.env.timeout(seconds * slow)
                return
            except simpy.Interrupt:
                seconds -= (self.env.now - begin) / slow

    def _slow_servers(self, slowdown: float) -> None:
        if self.rates.contention.server_slowdown != 1:
            for server in self.servers:
                server.slow_down(slowdown)

    def _update_weights(self):
        weights, dispatcher = self.rates.weights, self.dispatcher
        dispatcher.pause()
        version = dispatcher.version
        interrupted = [
            (server, requests)
            for server in self.servers
            if (requests := server.stop(version))
        ]
        yield self.env.timeout(weights.update_seconds)
        self._stopped += weights.update_seconds * len(self.servers)
        for server in self.servers:
            server.resume()
        if interrupted:
            self._after(weights.resume_seconds, self._submit, interrupted)
        dispatcher.resume(version + 1)

    def _step(self, batch: list[Group], tokens: int, times: tuple) -> Step:
        """`batch` was trained with the weights before this step's update."""
        version = self.dispatcher.version - 1
        stale_tokens: Counter[int] = Counter()
        stale_samples: Counter[int] = Counter()
        for group in batch:
            for made_by, count in group.tokens.items():
                stale_tokens[version - made_by] += count
            stale_samples.update(version - made_by for made_by in group.oldest)
        return Step(
            *times,
            samples=len(batch) * self.setting.group,
            tokens=tokens,
            response_tokens=stale_tokens.total(),
            staleness_tokens=dict(stale_tokens),
            staleness_samples=dict(stale_samples),
            interrupted=sum(group.interrupted for group in batch),
        )

    # Generation.

    def _start_group(self, number: int) -> None:
        group = Group(number, next(self._prompts), self.setting.group)
        requests = [
            Request(group, next(self._responses)) for _ in range(self.setting.group)
        ]
        server = self.servers[number % len(self.servers)]
        self._after(
            self.rates.server.request_seconds, self._submit, [(server, requests)]
        )

    def _submit(self, requests: list[tuple[Server, list[Request]]]) -> None:
        for server, its in requests:
            server.submit(its)

    def _finished(self, request: Request) -> None:
        group = request.group
        request.made(request.left, self.dispatcher.version)
        group.oldest.append(request.oldest)
        group.interrupted += request.interruptions > 0
        group.longest = max(group.longest, group.prompt_tokens + request.done)
        group.left -= 1
        if not group.left:
            self._after(self.rates.reward_seconds, self.dispatcher.finish, group)

    def _busy_changed(self, by: int) -> None:
        was, self._generating = self._generating, self._generating + by
        work = self._work
        if work is not None and work.is_alive and bool(was) != bool(self._generating):
            work.interrupt()

    # Both.

    def _after(self, seconds: float, call, argument) -> None:
        event = self.env.timeout(seconds)
        event.callbacks.append(lambda _: call(argument))

    def _served(self) -> Served:
        for server in self.servers:
            server.settle()
        self.dispatcher.settle()
        return Served(
            generated=sum(server.generated for server in self.servers),
            prefilled=sum(server.prefilled for server in self.servers),
            busy=sum(server.busy for server in self.servers),
            occupied=sum(server.occupied for server in self.servers),
            stopped=self._stopped,
            held_bound=self.dispatcher.held["bound"],
            held_concurrent=self.dispatcher.held["concurrent"],
            held_queue=self.dispatcher.held["queue"],
        )


def _lengths(distribution, seed: np.random.SeedSequence) -> Iterator[int]:
    rng = np.random.default_rng(seed)
    while True:
        yield from distribution.sample(rng, _DRAWN).tolist()
