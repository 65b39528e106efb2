"""What the simulation of `areal-cppo plan` says of runs that were measured.

A run's setting (batch, group, bound of staleness, servers, ranks) is simulated for as
many steps as the run has, and the figures of both are those of `bench async`, over the
same steps. Rates are the run's own, or were fitted from another run; then the slots of
a server and the lengths of prompts and responses are still those of the run: they
belong to what is asked, not to how fast it is answered.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from areal_cppo.bench.async_figures import figures
from areal_cppo.bench.async_rates import fit_rates
from areal_cppo.bench.async_run import RecordedRun
from areal_cppo.errors import UserError
from areal_cppo.plan.from_run import run_setting
from areal_cppo.plan.rates import Rates, parse_rates
from areal_cppo.plan.setting import Setting
from areal_cppo.plan.simulation import simulate

SEEDS = (1, 2, 3, 4, 5)  # of the lengths drawn; the mean over them counts
COMPARED = (
    "samples_per_second",
    "tokens_per_second",
    "trainer_idle",
    "generation_idle",
    "mean_staleness",
)


@dataclass(frozen=True)
class Measurement:
    """A run, as far as it can be compared with a simulation.

    Attributes
    ----------
    name
        Of the run.
    setting
        What is simulated.
    rates
        Those it is simulated with.
    measured
        Of the run, by the names in `COMPARED`: per second, shares, versions.
    """

    name: str
    setting: Setting
    rates: Rates
    measured: dict[str, float]

    @classmethod
    def of_run(
        cls,
        recorded: RecordedRun,
        warmup: int,
        rates: Rates | None = None,
    ) -> Measurement:
        """From a run's folder.

        Parameters
        ----------
        warmup
            Steps left out.
        rates
            Fitted elsewhere; None: the run's own.

        Raises
        ------
        UserError
            The folder does not say enough.
        """
        folder = recorded.run.folder
        found = figures(recorded, warmup)
        if found["generation"] is None or found["staleness"] is None:
            raise UserError(
                f"RUN: expected a run with traces of its responses, found {folder} "
                "without; train with perf_tracer.session_tracer.enabled=true"
            )
        own, speeds = fit_rates(recorded, warmup, {"run": folder.resolve().name})
        if rates is not None:
            slots = own.server.slots
            own = replace(
                rates,
                server=replace(rates.server, slots=slots),
                prompt_tokens=own.prompt_tokens,
                response_tokens=own.response_tokens,
            )
        setting = run_setting(recorded.run.config, folder).simulated(
            len(recorded.metrics), warmup, speeds=speeds
        )
        return cls(
            folder.resolve().name,
            setting,
            own,
            {
                "samples_per_second": found["samples_per_second"],
                "tokens_per_second": found["tokens_per_second"],
                "trainer_idle": found["trainer"]["idle_share"],
                "generation_idle": found["generation"]["idle_share"],
                "mean_staleness": found["staleness"]["mean"],
            },
        )

    def predicted(self) -> dict[str, float]:
        """The same figures of the simulation, the mean over `SEEDS`."""
        outcomes = [
            simulate(self.rates, replace(self.setting, seed=seed)) for seed in SEEDS
        ]
        return {
            name: statistics.fmean(getattr(outcome, name) for outcome in outcomes)
            for name in COMPARED
        }

    def as_json(self) -> dict[str, Any]:
        """All that is needed to simulate it again, and what that gave."""
        setting = self.setting
        return {
            "name": self.name,
            "setting": {
                "servers": setting.servers,
                "ranks": setting.ranks,
                "batch": setting.batch,
                "group": setting.group,
                "staleness": setting.staleness,
                "concurrent": setting.concurrent,
                "steps": setting.steps,
                "warmup": setting.warmup,
                "speeds": {str(k): v for k, v in setting.speeds.items()},
            },
            "rates": self.rates.as_json(),
            "measured": self.measured,
            "predicted": self.predicted(),
        }

    @classmethod
    def of_json(cls, document: dict[str, Any]) -> Measurement:
        """What `as_json` gave."""
        setting = document["setting"]
        speeds = {int(k): v for k, v in setting["speeds"].items()}
        return cls(
            document["name"],
            Setting(**setting | {"speeds": speeds}),
            parse_rates(document["rates"]),
            document["measured"],
        )


_HEADINGS = (
    "run",
    "servers",
    "slots",
    "batch",
    "bound",
    "tokens/response",
    "samples/s",
    "simulated",
    "off by",
    "trainer idle",
    "simulated",
    "generation idle",
    "simulated",
    "staleness",
    "simulated",
)


def table(described: Sequence[dict[str, Any]]) -> str:
    """Aligned columns, a line a run of `as_json`: measured, and simulated."""
    rows = [_HEADINGS, *map(_row, described)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(map(str.rjust, row, widths)) for row in rows)


def _row(run: dict[str, Any]) -> tuple[str, ...]:
    setting, measured, predicted = run["setting"], run["measured"], run["predicted"]
    off = predicted["samples_per_second"] / measured["samples_per_second"] - 1
    tokens = measured["tokens_per_second"] / measured["samples_per_second"]
    slow = "".join(f" ({k}: x{v:.2f})" for k, v in setting["speeds"].items())
    pairs = [
        f"{figures[name]:{form}}"
        for name, form in (
            ("trainer_idle", ".0%"),
            ("generation_idle", ".0%"),
            ("mean_staleness", ".2f"),
        )
        for figures in (measured, predicted)
    ]
    return (
        run["name"],
        f"{setting['servers']}{slow}",
        f"{run['rates']['server']['slots']}",
        f"{setting['batch']}",
        f"{setting['staleness']}",
        f"{tokens:.1f}",
        f"{measured['samples_per_second']:.2f}",
        f"{predicted['samples_per_second']:.2f}",
        f"{off:+.0%}",
        *pairs,
    )
