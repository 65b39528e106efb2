"""`areal-cppo report`: the report of a run that has ended, or was cut off."""

from __future__ import annotations

from areal_cppo.errors import UserError
from areal_cppo.run.finish import finish_run


def report(folder: str) -> int:
    """Write `summary.json` and `report.html` from what the folder holds."""
    try:
        print(finish_run(folder))
    except ValueError as error:
        raise UserError(str(error)) from error
    return 0
