"""The arms of the comparison. Imports neither torch nor AReaL."""

from __future__ import annotations

from dataclasses import dataclass

from areal_cppo.errors import UserError

_ALL = 1_000_000  # tokens
BRANCHES = ("anchor", "positive", "negative")
SWITCHES = (  # the fields of `actor.speed`
    "share_prompts",
    "share_images",
    "response_logits",
    "gate_first",
    "reuse_proximal",
)


@dataclass(frozen=True)
class Arm:
    """One way to make a train step.

    Attributes
    ----------
    letter
        Short name, for the command line and for ratios.
    name
        What it is.
    stock
        `plain`, AReaL's actor, or what is built on it (`areal_cppo.bench.stock`):
        `apart`, `published`. `None`: ours, with the rest.
    objective
        `actor.objective`.
    grad
        `actor.cpl.grad`.
    off
        Fields of `actor.speed` that are false.
    responses
        `actor.cpl.responses`.
    kept
        `actor.kept_view_tokens`.
    """

    letter: str
    name: str
    stock: str | None = None
    objective: str = "cppo"
    grad: tuple[str, ...] = BRANCHES
    off: tuple[str, ...] = ()
    responses: int | None = None
    kept: int = 0

    @property
    def published(self) -> bool:
        """Whether it is the published CPPO, whose batch has the views in it."""
        return self.stock == "published"


def all_arms() -> list[Arm]:
    """Every arm, in the order of the table."""
    ablations = []
    for name in SWITCHES:
        # A shared prompt holds its image: only without it an image comes up twice.
        off = ("share_prompts", name) if name == "share_images" else (name,)
        ablations.append(Arm(f"d-{name}", f"CPPO without {', '.join(off)}", off=off))
    return [
        Arm("a", "AReaL, GRPO", "plain"),
        Arm("a*", "AReaL, GRPO, sequences apart", "apart"),
        Arm("b", "AReaL, published CPPO", "published"),
        Arm("c", "ours, GRPO", objective="grpo"),
        Arm("d", "ours, CPPO"),
        Arm("e", "ours, CPPO, gradient of anchor only", grad=("anchor",)),
        Arm("f", "ours, CPPO, one response a group", responses=1),
        Arm("d+", "ours, CPPO, views' activations kept", kept=_ALL),
        Arm("f+", "ours, one response, views kept", responses=1, kept=_ALL),
        *ablations,
        Arm("d-all", "CPPO without all of these", off=SWITCHES),
    ]


def select_arms(letters: str | None) -> list[Arm]:
    """The arms that a user asked for, as `a,d`; all by default."""
    arms = all_arms()
    if letters is None:
        return arms
    wanted = [letter.strip() for letter in letters.split(",")]
    known = [arm.letter for arm in arms]
    for letter in wanted:
        if letter not in known:
            raise UserError(
                f"--arms: expected some of {', '.join(known)}, found {letter!r}; give "
                "their letters, as a,d"
            )
    return [arm for arm in arms if arm.letter in wanted]
