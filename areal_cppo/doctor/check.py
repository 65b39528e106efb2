"""One thing that is looked for, and the table of all of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One row of the table.

    Attributes:
        name: what was looked for.
        ready: whether it is there and good enough.
        found: what is there, in a few words.
        remedy: how to get it; shown if it is not ready.
        required: whether nothing can run without it.
    """

    name: str
    ready: bool
    found: str
    remedy: str = ""
    required: bool = True

    @property
    def state(self) -> str:
        """`ready`, `MISSING` or, where something runs without it, `absent`."""
        if self.ready:
            return "ready"
        return "MISSING" if self.required else "absent"

    @property
    def lacking(self) -> bool:
        """Whether it keeps something from running."""
        return self.required and not self.ready

    def as_line(self) -> str:
        """What is wrong, in one line."""
        return f"{self.name}: found {self.found}; {self.remedy}"


def as_table(checks: list[Check]) -> str:
    """Aligned columns; the remedy on a line of its own."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.state:<8} {check.name:<{width}}  {check.found}")
        if not check.ready and check.remedy:
            lines.append(f"{'':<8} {'':<{width}}  -> {check.remedy}")
    return "\n".join(lines)
