"""Takes the place of AReaL's dataloader: the ledger decides what comes next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from areal.utils import logging

from areal_cppo.errors import RunError
from areal_cppo.rollout.ledger import PromptLedger

logger = logging.getLogger("PromptLoader")

GIVEN_UP = "cppo/problems_given_up"  # a statistic of a step: since the start

_UNREADABLE = (RunError, OSError)  # of a problem whose picture is broken or gone
_MOST_UNREADABLE = 64  # in a row: then it is not the problem's fault


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
