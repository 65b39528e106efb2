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
from areal_cppo.plan.rates import Rates, parse_rates
from areal_cppo.plan.setting import Setting, run_setting
from areal_cppo.plan.simulation import simulate
from areal_cppo.report.table import table

SEEDS = (1, 2, 3, 4, 5)  # of the lengths drawn; the mean over them counts
COMPARED = (
    "samples_per_second",
    "tokens_per_second",
    "trainer_idle",
    "generation_idle",
    "mean_staleness",
)
# Of a `Setting`, as stored; beside it the servers' speeds.
_SETTING = (
    "servers",
    "ranks",
    "batch",
    "group",
    "staleness",
    "concurrent",
    "steps",
    "warmup",
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
        name = folder.resolve().name
        own, speeds = fit_rates(recorded, warmup, {"run": name})
        if rates is not None:
            own = replace(
                rates,
                server=replace(rates.server, slots=own.server.slots),
                prompt_tokens=own.prompt_tokens,
                response_tokens=own.response_tokens,
            )
        setting = run_setting(recorded.run.config, folder).simulated(
            len(recorded.metrics), warmup, speeds=speeds
        )
        measured = {
            "samples_per_second": found["samples_per_second"],
            "tokens_per_second": found["tokens_per_second"],
            "trainer_idle": found["trainer"]["idle_share"],
            "generation_idle": found["generation"]["idle_share"],
            "mean_staleness": found["staleness"]["mean"],
        }
        return cls(name, setting, own, measured)

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
        setting = {name: getattr(self.setting, name) for name in _SETTING}
        speeds = {str(server): speed for server, speed in self.setting.speeds.items()}
        return {
            "name": self.name,
            "setting": setting | {"speeds": speeds},
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


def runs_table(described: Sequence[dict[str, Any]]) -> str:
    """Aligned columns, a line a run of `as_json`: measured, and simulated."""
    return table(_HEADINGS, map(_row, described))


def _row(run: dict[str, Any]) -> tuple[str, ...]:
    setting, measured, predicted = run["setting"], run["measured"], run["predicted"]
    off = predicted["samples_per_second"] / measured["samples_per_second"] - 1
    tokens = measured["tokens_per_second"] / measured["samples_per_second"]
    slow = "".join(f" ({k}: x{v:.2f})" for k, v in setting["speeds"].items())
    forms = {"trainer_idle": ".0%", "generation_idle": ".0%", "mean_staleness": ".2f"}
    pairs = [
        format(side[name], form)
        for name, form in forms.items()
        for side in (measured, predicted)
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
