"""What of the environment is ready or missing, and how to get it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing that was looked for, a row of the doctor's table.

    Attributes
    ----------
    name
        What was looked for.
    ready
        Whether it is there and good enough.
    found
        What is there, in a few words.
    remedy
        How to get it; shown if it is not ready.
    required
        Whether nothing can run without it.
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
