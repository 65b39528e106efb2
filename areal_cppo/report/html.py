"""The run report: one HTML file that needs nothing but itself."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from areal_cppo.folder import RunFolder, replace_file
from areal_cppo.metrics import meanings
from areal_cppo.report.chart import Plot
from areal_cppo.report.headline import facts, gaps, run_size, run_title
from areal_cppo.report.heldout import accuracy_change, heldout_points
from areal_cppo.report.identity import identity, page_title
from areal_cppo.report.page import render
from areal_cppo.report.plots import all_plots
from areal_cppo.report.runs import RunContents, load_run
from areal_cppo.report.sample_html import samples_html, step_samples_html
from areal_cppo.report.step_samples import first_middle_last, read_step_samples
from areal_cppo.report.trend import counts_last, trend

KIND = "areal_cppo run report"
NOT_LISTED = {"step", "time"}  # say where a record belongs; no values of a run
# Config keys whose values are nobody's business but the user's.
SECRET = re.compile(
    r"(?im)^(\s*(?:- )?[\w-]*(?:api_key|password|secret|(?:auth|access)_token)\s*:)"
    r"[ \t]*(?!null\b|''|\"\")\S.*$"
)


def write_report(folder: Path | str) -> Path:
    """Write `report.html` and `report_files/` into a run's folder.

    However little the folder holds, as long as it is a run's, a report is made
    that says what is missing; otherwise `ValueError`.
    """
    run = load_run(folder)
    plots = all_plots(run)
    pictures = run.folder / "report_files"
    pictures.mkdir(exist_ok=True)
    for stale in pictures.glob("*.svg"):
        stale.unlink()
    for plot in plots:
        (pictures / f"{plot.name}.svg").write_text(plot.svg, encoding="utf-8")
    path = run.folder / "report.html"
    replace_file(path, report_html(run, plots))
    return path


def report_html(run: RunContents, plots: list[Plot]) -> str:
    """The page."""
    points = heldout_points(run)
    steps = _step_samples(run)
    return render(
        "report.html.j2",
        run=run,
        title=page_title(run, KIND),
        kind=KIND,
        identity=identity(run),
        objective=run_title(run),
        size=run_size(run),
        points=points,
        change=accuracy_change(points),
        training=trend(run.series("accuracy")[1]),
        facts=facts(run),
        gaps=gaps(run),
        plots=plots,
        steps=steps,
        samples=samples_html(run.samples, "Held-out responses") if run.samples else "",
        metrics=list(_figures(run)),
        config=run.config_text and shareable(run.config_text, run.folder),
    )


def _step_samples(run: RunContents) -> str:
    """The section of the run's own samples; what can't be read is noted."""
    files, found = sorted((run.folder / "samples").glob("step-*.json")), []
    for file in first_middle_last(files):
        try:
            found.append(read_step_samples(file))
        except ValueError as error:
            run.notes.append(f"samples/{file.name} is left out: {error}")
    return step_samples_html(found, len(files)) if found else ""


def _figures(run: RunContents) -> Iterator[dict[str, Any]]:
    """What each metric was at last, in the order in which they are declared."""
    recorded = {key for record in run.metrics for key in record}
    known = meanings(RunFolder(run.folder).meanings) if recorded else {}
    for name in [*known, *sorted(recorded - known.keys())]:
        values = run.series(name)[1]
        if name in NOT_LISTED or not values:
            continue
        unknown = {"title": name, "unit": "", "help": "Not described here."}
        meaning = known.get(name, unknown)
        found = trend(values[-1:] if counts_last(name) else values)
        change = "last value" if counts_last(name) else found.words(meaning["unit"])
        yield {"name": name, **meaning, "value": found.mean, "change": change}


def shareable(config: str, folder: Path) -> str:
    """The config without secrets and without where this machine keeps things."""
    config = SECRET.sub(r"\1 (hidden)", config)
    for place, name in ((folder.resolve(), "RUN"), (Path.home(), "~")):
        if len(place.parts) > 1:  # never the root folder
            config = re.sub(rf"{re.escape(str(place))}(?=[/\s'\"]|$)", name, config)
    return config
