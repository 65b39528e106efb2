"""Which problems have been trained on: each once an epoch, whatever is interrupted.

A problem has a place in a line that goes on from epoch to epoch: place `p` of a dataset
of `N` problems is number `p % N` in the order of epoch `p // N`. The line, and with it
the order of the data, depends on `N` and the seed alone, so nothing of it has to be
stored. What is stored is which places are done: trained on, or given up after too many
failures. Places that were handed out when a run was cut off are neither, and are handed
out again.

`PromptLoader` takes the place of AReaL's dataloader.
"""

from __future__ import annotations

import heapq
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from areal.utils import logging

from areal_cppo.errors import RunError, UserError

logger = logging.getLogger("PromptLoader")

GIVEN_UP = "cppo/problems_given_up"  # a statistic of a step: since the start

_UNREADABLE = (RunError, OSError)  # of a problem whose picture is broken or gone
_MOST_UNREADABLE = 64  # in a row: then it is not the problem's fault


class PromptLedger:
    """Hands out places of the line, each until it is done; safe between threads.

    Parameters
    ----------
    size
        Problems of the dataset.
    seed
        Of the order of each epoch.
    shuffle
        Whether each epoch has an order of its own; else all have the dataset's.
    attempts
        Times that a problem is handed out before it is given up.
    """

    def __init__(self, size: int, seed: int, shuffle: bool = True, attempts: int = 3):
        if size < 1 or attempts < 1:
            raise ValueError(
                f"expected size and attempts of at least 1, got {size}, {attempts}"
            )
        self.size, self.seed, self.shuffle = size, seed, shuffle
        self.attempts = attempts
        self._order = lru_cache(maxsize=2)(self._draw)
        self._lock = threading.Lock()
        self._next = 0  # first place that was never handed out
        self._returned: list[int] = []  # heap: to be handed out again
        self._failures: Counter[int] = Counter()
        self._out: set[int] = set()
        self._trained = Ranges()
        self._given_up: set[int] = set()

    def _draw(self, epoch: int) -> list[int]:
        order = list(range(self.size))
        if self.shuffle:
            random.Random(f"{self.seed}/{epoch}").shuffle(order)
        return order

    def problem(self, place: int) -> tuple[int, int]:
        """Epoch, and index in the dataset, of a place."""
        epoch, position = divmod(place, self.size)
        return epoch, self._order(epoch)[position]

    def take(self) -> int:
        """The first place that is neither done nor out; it is out now."""
        with self._lock:
            if self._returned:
                place = heapq.heappop(self._returned)
            else:
                place = self._next
                while place in self._trained or place in self._given_up:
                    place += 1
                self._next = place + 1
            self._out.add(place)
            return place

    def give_back(self, place: int) -> bool:
        """No trajectory came of it; whether it will be handed out again."""
        with self._lock:
            self._out.remove(place)
            self._failures[place] += 1
            if self._failures[place] >= self.attempts:
                self._given_up.add(place)
                del self._failures[place]
                return False
            heapq.heappush(self._returned, place)
            return True

    def trained(self, places: Iterable[int]) -> None:
        """These are done: a step was made with them.

        Raises
        ------
        ValueError
            One of them is not out: it would be trained on twice.
        """
        places = list(places)
        with self._lock:
            wrong = [place for place in places if place not in self._out]
            if wrong or len(set(places)) < len(places):
                raise ValueError(
                    f"expected places that are out, each once, got {places}; "
                    f"not out: {wrong}"
                )
            self._out.difference_update(places)
            for place in places:
                self._failures.pop(place, None)
                self._trained.add(place)

    @property
    def given_up(self) -> int:
        """Number of places given up."""
        return len(self._given_up)

    def state_dict(self) -> dict[str, Any]:
        """What is done, as plain JSON; places that are out count as never taken."""
        with self._lock:
            return {
                "size": self.size,
                "seed": self.seed,
                "shuffle": self.shuffle,
                "trained": self._trained.to_list(),
                "given_up": sorted(self._given_up),
                "failures": sorted(self._failures.items()),
            }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`'s result.

        Raises
        ------
        UserError
            The data is not the same: the line would be another.
        """
        for name, setting in (
            ("size", "train_dataset"),
            ("seed", "seed"),
            ("shuffle", "train_dataset.shuffle"),
        ):
            if state[name] != getattr(self, name):
                raise UserError(
                    f"{setting}: expected the data order of the run to go on with "
                    f"({name} {state[name]}), found {name} {getattr(self, name)}; set "
                    "it back, or begin anew with another run_dir"
                )
        with self._lock:
            self._trained = Ranges(state["trained"])
            self._given_up = set(state["given_up"])
            self._failures = Counter({place: n for place, n in state["failures"]})
            self._next, self._returned, self._out = 0, [], set()


class Ranges:
    """A set of integers >= 0 that is mostly one run, stored as runs `[start, end)`."""

    def __init__(self, runs: Iterable[Iterable[int]] = ()):
        self._low = 0  # all below are in it
        self._above: set[int] = set()
        for start, end in runs:
            for value in range(start, end) if start > self._low else ():
                self.add(value)
            if start <= self._low:
                self._low = max(self._low, end)

    def add(self, value: int) -> None:
        self._above.add(value)
        while self._low in self._above:
            self._above.remove(self._low)
            self._low += 1

    def __contains__(self, value: int) -> bool:
        return 0 <= value < self._low or value in self._above

    def __len__(self) -> int:
        return self._low + len(self._above)

    def to_list(self) -> list[list[int]]:
        runs = [[0, self._low]] if self._low else []
        for value in sorted(self._above):
            if runs and runs[-1][1] == value:
                runs[-1][1] += 1
            else:
                runs.append([value, value + 1])
        return runs


class PromptLoader:
    """Problems in the ledger's order, and what AReaL's trainer asks of a dataloader.

    An epoch has `len(dataset) // batch_size` steps. The problems that are left over
    then are not dropped: the next epoch begins with them.

    Parameters
    ----------
    dataset
        Of problems, by index.
    batch_size
        Problems a step.
    ledger
        Of the same size as the dataset.
    """

    def __init__(self, dataset: Sequence[Any], batch_size: int, ledger: PromptLedger):
        self.dataset = dataset
        self.batch_size = batch_size
        self.ledger = ledger
        self.on_unreadable: Callable[[str], None] = logger.warning

    def __len__(self) -> int:
        """Steps of an epoch."""
        return len(self.dataset) // self.batch_size

    def take(self) -> tuple[int, Any]:
        """The next problem that can be read, and its place.

        Raises
        ------
        RunError
            Too many in a row can't be read.
        """
        last = None
        for _ in range(_MOST_UNREADABLE):
            place = self.ledger.take()
            _, index = self.ledger.problem(place)
            try:
                return place, self.dataset[index]
            except _UNREADABLE as error:
                last = error
                again = self.ledger.give_back(place)
                self.on_unreadable(
                    f"problem {index} can't be read ({error}): "
                    + ("to be tried again" if again else "given up")
                )
        raise RunError(
            f"expected problems that can be read, found {_MOST_UNREADABLE} in a row "
            f"that can't be; the last: {last}"
        )

    def state_dict(self) -> dict[str, Any]:
        return self.ledger.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.ledger.load_state_dict(state)
