"""A run whose data and reward function are broken: pictures, and a user's function."""

from __future__ import annotations

import random
import time
from pathlib import Path

from tests.chaos.broken_rewards import CRASH, DIE, HANG
from tests.chaos.measure import Progress, Record, close
from tests.chaos.problems import BREAKAGES, break_image, image_file, write_problems
from tests.chaos.session import _FOR_EVER, QUICK, Say, Session
from tests.chaos.stack import BATCH, PROBLEMS, STEP_SECONDS, Stack, Stuck

_REWARDS = {"reward-crash": CRASH, "reward-hang": HANG, "reward-die": DIE}
_REASONS = {
    "reward-crash": "reward_error",
    "reward-hang": "reward_timeout",
    "reward-die": "reward_error",
}
TITLES = {
    "reward-crash": "the reward function raises",
    "reward-hang": "the reward function never returns",
    "reward-die": "the reward function ends its process (SIGSEGV)",
}
IMAGE = "image-broken"
DATA_FAULTS = (IMAGE, *_REWARDS)
# Prompts are taken this many epochs ahead of the one that is trained, at most.
_AHEAD = 2


class DataSession(Session):
    """One run with all of `DATA_FAULTS` that are asked for, at the same time.

    Whatever is broken must cost the prompts concerned, and nothing else: the others are
    trained on once an epoch, and the run goes on.
    """

    def __init__(self, folder: Path, rng: random.Random, say: Say):
        self.rng, self.say = rng, say
        folder.mkdir(parents=True)
        self.data = folder / "data"
        self.victims = rng.sample(range(PROBLEMS), len(_REWARDS) + len(BREAKAGES))
        self.bad = dict(zip(_REWARDS, self.victims, strict=False))
        self.folder = folder
        self.records: list[Record] = []
        self.exposed: set[str] = set()

    def run(self, faults: list[str]) -> list[Record]:
        rewards = [name for name in faults if name in _REWARDS]
        answers = {self.bad[name]: _REWARDS[name] for name in rewards}
        seed = self.rng.randrange(10**6)
        table = write_problems(self.data, PROBLEMS, seed, answers)
        # Else a problem's number in the ledger would not be that of its row.
        order = "train_dataset.shuffle=false"
        overrides = (*QUICK, "reward.timeout_seconds=5", order)
        self.stack = stack = Stack(
            self.folder, table, _FOR_EVER, overrides, "tests.chaos.train"
        )
        self.progress = Progress(stack)
        try:
            self.say(f"starting {self.folder.name}: {', '.join(faults)}")
            stack.start()
            stack.wait_for_step(1)
            for name in rewards:
                what = f"problem {self.bad[name]}: {TITLES[name]}"
                self.records.append(Record(name, what, 0, steps_lost=0))
            if IMAGE in faults:
                self._break_images()
            self._close()
        except Stuck as stuck:
            self._stuck(str(stuck), faults)
        finally:
            stack.end()
        return self.records

    def _break_images(self) -> None:
        stack, rng = self.stack, self.rng
        for how, index in zip(BREAKAGES, self.victims[len(_REWARDS) :], strict=True):
            stack.wait_for_step(self.progress.look() + rng.randrange(1, 3))
            time.sleep(rng.uniform(0.0, self._step_seconds()))
            record = Record(IMAGE, f"problem {index}: its picture is {how}", stack.step)
            self.records.append(record)
            moment = time.time()
            break_image(image_file(self.data, index), how, rng)
            self.say(f"step {record.at_step}: {record.what}")
            finished = stack.wait(
                "a step after a broken picture",
                lambda moment=moment: self.progress.first_after(moment),
                STEP_SECONDS,
            )
            record.seconds_to_recover, record.steps_lost = finished - moment, 0

    def _close(self) -> None:
        """Some epochs more, so that every broken thing is met; then the checks."""
        stack = self.stack
        epoch = PROBLEMS // BATCH
        last = stack.step + (_AHEAD + 3) * epoch
        stack.wait_for_step(last, STEP_SECONDS * epoch)
        (stack.run / "STOP").touch()
        status = stack.wait_for_end(STEP_SECONDS)
        victims = {int(record.what.split(":")[0].split()[1]) for record in self.records}
        close(stack, self.records, status, 75, victims)
        refused = stack.lines("metrics.jsonl")[-1]["refused"]
        trained = [
            tuple(prompt)
            for line in stack.lines("ledger.jsonl")
            for prompt in line["prompts"]
        ]
        for record in self.records:
            index = int(record.what.split(":")[0].split()[1])
            self._check_victim(record, index, refused, trained)
        self.say(f"ended with {status} after step {stack.step}; refused {refused}")

    def _check_victim(self, record: Record, index: int, refused, trained) -> None:
        epochs = {epoch for epoch, found in trained if found == index}
        if record.kind in _REASONS:
            n = refused.get(_REASONS[record.kind], 0)
            record.note = f"{n} responses refused as {_REASONS[record.kind]}"
            if not n or epochs:
                record.problems.append(f"refused {n} times, trained in {epochs}")
            return
        broken = record.at_step * BATCH // PROBLEMS
        late = {epoch for epoch in epochs if epoch > broken + _AHEAD}
        record.note = f"trained on in {len(epochs)} epochs, before it was broken"
        if late:
            record.problems.append(f"trained in epochs {late}, broken in {broken}")
