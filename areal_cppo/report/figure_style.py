"""How the report's plots look: colours, axes, and SVG that follows dark mode."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's colours, told apart with any colour vision.
BLUE, ORANGE, GREEN = "#0072b2", "#e69f00", "#009e73"
VERMILLION, PURPLE, SKY = "#d55e00", "#cc79a7", "#56b4e9"
GREY = "#b4bcc6"  # waiting
INK, MUTED, RULE = "#24292f", "#57606a", "#d8dee4"

# Phases of a training step, coloured alike wherever they are drawn.
PHASE_COLORS = {
    "rollout wait": GREY,
    "log-probs": PURPLE,
    "reference log-probs": VERMILLION,
    "advantages": GREEN,
    "update": BLUE,
    "weights": ORANGE,
}

# Colours of the SVG on a dark page; those not named serve both.
DARK = {
    INK: "#e6e9ee",
    MUTED: "#a3adba",
    RULE: "#39414d",
    GREY: "#6b7480",
    BLUE: "#3d96d4",
    VERMILLION: "#f07f35",
}

STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "legend.handlelength": 2.0,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "areal_cppo",
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
}

LEGEND = {"borderaxespad": 0.2, "borderpad": 0, "columnspacing": 1.4}
HALF = (5.6, 4.2)  # inches, for half of the page's width
_MARGIN = 1.08  # inches that the widest labels take on the left of a panel
MARKED_STEPS = 20  # up to here every step is marked and nothing is smoothed


class Drawing(Figure):
    """A figure that can be drawn at several widths.

    The legends over its panels take as many columns as there is room for.
    """

    def __init__(self, **settings):
        super().__init__(layout="constrained", **settings)
        self.above: list[tuple[Callable[[int], Legend], int]] = []

    def fit_legends(self) -> None:
        renderer = FigureCanvasAgg(self).get_renderer()
        for make, most in self.above:
            for columns in range(most, 0, -1):
                width = make(columns).get_window_extent(renderer).width
                if width <= self.bbox.width - _MARGIN * self.dpi:
                    break


def style() -> matplotlib.rc_context:
    """The settings that every plot is made under."""
    return matplotlib.rc_context(STYLE)


def panels(
    rows: int, size: tuple[float, float], heights: Sequence[float] | None = None
) -> tuple[Drawing, list[Axes]]:
    """A figure of `rows` panels that share the horizontal axis."""
    figure = Drawing(figsize=size)
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False, height_ratios=heights)
    return figure, list(axes[:, 0])


@dataclass(frozen=True)
class Curve:
    """A metric by step, and how it is called and drawn; false where nothing is known.

    `smoothed` says what a caption must say of its drawing, if anything.
    """

    label: str
    color: str
    steps: Sequence[int]
    values: Sequence[float]
    line: str = "-"
    unit: str = ""

    def __bool__(self) -> bool:
        return bool(self.steps)

    def draw(self, ax: Axes) -> None:
        """Marked when short, else faint under its trailing mean."""
        style = {"color": self.color, "label": self.label, "linestyle": self.line}
        if len(self.steps) <= MARKED_STEPS:
            ax.plot(self.steps, self.values, **style, marker="o", markersize=3.5)
            return
        ax.plot(self.steps, self.values, color=self.color, alpha=0.3, linewidth=0.9)
        ends = range(1, len(self.values) + 1)
        windows = (self.values[max(0, end - self._smoothing) : end] for end in ends)
        ax.plot(self.steps, [sum(w) / len(w) for w in windows], **style)

    @property
    def smoothed(self) -> str:
        if len(self.steps) <= MARKED_STEPS:
            return ""
        return f" Faint: each step; bold: mean of the last {self._smoothing} steps."

    @property
    def _smoothing(self) -> int:
        """Steps of the trailing mean: more of them in longer runs."""
        return max(5, len(self.steps) // 30)

    @property
    def words(self) -> str:
        """Its course, for those who cannot see it."""
        if not self.steps:
            return f"{self.label} not recorded"
        first = f"{self.values[0]:.3g} at step {self.steps[0]}"
        if len(self.steps) == 1:
            return f"{self.label} {first}"
        last = f"{self.values[-1]:.3g} at step {self.steps[-1]}"
        return f"{self.label} from {first} to {last}"


def step_axis(ax: Axes) -> None:
    """The horizontal axis of a plot by step."""
    ax.set_xlabel("training step")
    ax.xaxis.set_major_locator(ticks("auto", integer=True))


def ticks(number: int | str, integer: bool = False) -> MaxNLocator:
    """At most about so many ticks, at round values; "auto": as there is room for."""
    return MaxNLocator(number, integer=integer, steps=[1, 2, 5, 10])


def legend_above(ax: Axes, columns: int = 4, of: Axes | None = None) -> None:
    """A legend over the panel, where it hides no data, of what is drawn in `of`."""
    handles, labels = (of or ax).get_legend_handles_labels()
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), **LEGEND}

    def make(columns: int) -> Legend:
        return ax.legend(handles, labels, ncols=columns, **place)

    if handles and isinstance(ax.figure, Drawing):
        ax.figure.above.append((make, columns))
    if handles:
        make(columns)


def svg_text(figure: Figure) -> str:
    """The figure as SVG with neither date nor outside reference, dark mode added."""
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    buffer = io.StringIO()
    if isinstance(figure, Drawing):
        figure.fit_legends()
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>", "", buffer.getvalue(), flags=re.S)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    dark = "".join(
        f'[style*="{part}: {light}"]{{{part}:{shade}!important}}'
        for light, shade in DARK.items()
        for part in ("fill", "stroke")
    )
    rules = (
        "<style>text{font-family:system-ui,sans-serif!important}"
        f"@media (prefers-color-scheme:dark){{{dark}}}</style>"
    )
    return re.sub(r"(<svg\b[^>]*>)", lambda tag: tag[1] + rules, svg.strip(), count=1)
