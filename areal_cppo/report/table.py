"""Tables of aligned columns for the terminal, as plain text."""

import io
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDEST = 10_000  # characters: nothing is wrapped, whatever the terminal's width


def table(
    columns: Sequence[str] | None,
    rows: Iterable[Sequence[object]],
    *,
    title: str | None = None,
    words: int = 0,
) -> str:
    """Rows in aligned columns, two spaces apart, without borders or colours.

    Parameters
    ----------
    columns
        The headings; `None` for a table without them.
    rows
        A sequence of cells a row, at least one row where there are no headings;
        `None` is shown as "-".
    title
        A line of its own above the table.
    words
        How many of the leading columns hold words and are aligned to the left.
        Those after them hold numbers and are aligned to the right.

    Returns
    -------
    str
        The title, the headings and a line a row, so that `splitlines()` gives the
        rows back to a caller that has notes to put between them.
    """
    rows = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    headings = [""] * len(rows[0]) if columns is None else columns
    grid = Table(
        box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=columns is not None
    )
    for at, heading in enumerate(headings):
        justify = "left" if at < words else "right"
        grid.add_column(Text(heading), justify=justify, no_wrap=True)
    for row in rows:
        grid.add_row(*map(Text, row))
    written = io.StringIO()
    Console(file=written, width=_WIDEST, color_system=None, force_terminal=False).print(
        grid
    )
    lines = [line.rstrip() for line in written.getvalue().splitlines()]
    return "\n".join(lines if title is None else [title, *lines])
