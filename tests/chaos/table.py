"""`python -m tests.chaos.table RESULTS.json [DOCUMENT]`: results as a markdown table.

With a document, the table replaces what is between its two markers.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from areal_cppo.errors import UserError
from tests.chaos.data_session import IMAGE, TITLES
from tests.chaos.faults import FAULTS, RESTARTS, SURVIVES
from tests.chaos.slurm_session import TITLES as SLURM_TITLES

BEGIN, END = "<!-- chaos: begin -->", "<!-- chaos: end -->"
_OTHER_TITLES = {**TITLES, **SLURM_TITLES, IMAGE: "a picture's file is broken"}
_OTHER_TITLES["disk-full"] = "the checkpoints' disk is full"
_HEADER = (
    "fault",
    "times",
    "what the run does",
    "seconds to the next step",
    "seconds until the server is back",
    "finished steps lost",
    "prompts trained twice",
    "prompts never trained",
    "metrics without gap or repeat",
    "orphans",
    "held",
)


def title(kind: str) -> str:
    fault = FAULTS.get(kind)
    return fault.title if fault else _OTHER_TITLES[kind]


def _does(kind: str, records: list[dict[str, Any]]) -> str:
    fault = FAULTS.get(kind)
    if fault is not None and fault.leads_to == SURVIVES:
        out = any(record["seconds_server_back"] for record in records)
        return "goes on; the server comes back" if out else "goes on"
    if fault is not None and fault.leads_to == RESTARTS:
        return "starts itself again"
    if kind in SLURM_TITLES:
        return "is queued again"
    statuses = sorted({r["exit_status"] for r in records if r["exit_status"]})
    if statuses:
        shown = ", ".join(str(status) for status in statuses)
        return f"ends with {shown}; goes on when started again"
    return "goes on without the prompt"


def _span(records: list[dict[str, Any]], field: str, digits: int = 0) -> str:
    """Least and largest of a field; a dash where it was not measured."""
    values = [r[field] for r in records if r[field] is not None]
    if not values:
        return "-"
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low}-{high}"


def table(result: dict[str, Any]) -> str:
    """The table, a row a kind, and a line on how it was made."""
    by_kind = defaultdict(list)
    for record in result["faults"]:
        by_kind[record["kind"]].append(record)
    rows = [_HEADER, ("---",) * len(_HEADER)]
    for kind, records in by_kind.items():
        whole = all(record["metrics_whole"] for record in records)
        held = sum(record["ok"] for record in records)
        rows.append(
            (
                title(kind),
                str(len(records)),
                _does(kind, records),
                _span(records, "seconds_to_recover"),
                _span(records, "seconds_server_back"),
                _span(records, "steps_lost"),
                _span(records, "trained_twice"),
                _span(records, "never_trained"),
                "yes" if whole else "no",
                _span(records, "orphans"),
                f"{held} of {len(records)}",
            )
        )
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    held = sum(record["ok"] for record in result["faults"])
    seconds = sum(session["seconds"] for session in result["sessions"])
    lines.append("")
    lines.append(
        f"{len(result['faults'])} faults of {len(by_kind)} kinds in "
        f"{len(result['sessions'])} runs, {held} held; seed {result['seed']}, "
        f"`python -m tests.chaos --seed {result['seed']} --rounds {result['rounds']}`, "
        f"{seconds / 60:.0f} minutes on {result['machine']}."
    )
    return "\n".join(lines)


def replace(document: str, text: str) -> str:
    """The document with `text` between its markers."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"expected the markers {BEGIN} and {END}, found none: add them")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def main(arguments: list[str]) -> int:
    result = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    text = table(result)
    if len(arguments) == 1:
        print(text)
        return 0
    document = Path(arguments[1])
    new = replace(document.read_text(encoding="utf-8"), text)
    document.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
