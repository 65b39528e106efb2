"""The task: read the heights of the bars A, B and C off a chart, and add them up.

`areal_cppo.tasks` says how it is asked and answered, and what each token of a
response is for.
"""

from __future__ import annotations

from areal_cppo.tasks.charts import checkpoint_dir
from areal_cppo.tasks.charts.drawing import BARS, draw_chart
from areal_cppo.tasks.task import ReadingTask

CHARTS = ReadingTask("charts", BARS, draw_chart, checkpoint_dir())
