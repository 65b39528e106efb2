"""The run report: one HTML file that needs nothing but itself."""

import os
import re
from pathlib import Path

from areal_cppo.report.headline import header_html, run_title
from areal_cppo.report.markup import number, text
from areal_cppo.report.page import page_html, versions
from areal_cppo.report.plots import Plot, all_plots
from areal_cppo.report.runs import Run, load_run
from areal_cppo.report.sample_html import samples_html
from areal_cppo.report.vocabulary import METRICS

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
    part = run.folder / "report.html.part"
    part.write_text(report_html(run, plots), encoding="utf-8")
    part.replace(path)
    return path


def report_html(run: Run, plots: list[Plot]) -> str:
    """The page."""
    sections = [
        _plots(plots),
        samples_html(run.samples) if run.samples else "",
        _metrics_table(run),
        _config(run),
    ]
    return page_html(
        run_title(run),
        header_html(run),
        "".join(sections),
        "<p>How this report was made: from the files of the run's folder, with "
        f"{versions()}.</p>",
    )


def _plots(plots: list[Plot]) -> str:
    if not plots:
        return ""
    figures = "".join(
        f'<figure class="card {"wide" if plot.wide else "half"}">'
        f"<h3>{text(plot.title)}</h3>"
        f'<img class="plot" src="{plot.data_uri}" alt="{text(plot.alt)}">'
        f"<figcaption>{text(plot.caption)}</figcaption></figure>"
        for plot in sorted(plots, key=lambda plot: plot.wide)
    )
    return (
        '<section aria-labelledby="course"><h2 id="course">Course of the run</h2>'
        f'<div class="plots">{figures}</div></section>'
    )


def _metrics_table(run: Run) -> str:
    recorded = {key for record in run.metrics for key in record}
    rows = []
    for key in [*METRICS, *sorted(recorded - METRICS.keys())]:
        steps, values = run.series(key)
        if key in NOT_LISTED or not steps:
            continue
        title, unit, words = METRICS.get(key, (key, "", "Not described here."))
        rows.append(
            f'<tr><th scope="row">{text(title)}</th>'
            f'<td class="value">{number(values[-1], unit)}</td>'
            f'<td class="value step">{number(steps[-1])}</td>'
            f"<td>{text(words)} <code>{text(key)}</code></td></tr>"
        )
    if not rows:
        return ""
    return (
        '<section aria-labelledby="metrics"><h2 id="metrics">Last values</h2>'
        '<div class="card scroll"><table class="metrics"><thead><tr>'
        '<th scope="col">Metric</th><th scope="col" class="value">Last value</th>'
        '<th scope="col" class="value step">'
        'Step</th><th scope="col">Meaning</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _config(run: Run) -> str:
    if run.config_text is None:
        return ""
    return (
        '<section aria-labelledby="config"><h2 id="config">Resolved config</h2>'
        '<details class="card"><summary>config.yaml</summary>'
        f'<pre tabindex="0">{text(shareable(run.config_text, run.folder))}</pre>'
        "</details></section>"
    )


def shareable(config: str, folder: Path) -> str:
    """The config without secrets and without where this machine keeps things."""
    config = SECRET.sub(r"\1 (hidden)", config)
    for place, name in (
        (folder.resolve(), "RUN"),
        (Path(os.path.expanduser("~")), "~"),
    ):
        if len(place.parts) > 1:  # never the root folder
            config = re.sub(rf"{re.escape(str(place))}(?=[/\s'\"]|$)", name, config)
    return config
