"""An objective in a file: the views' divergence, pushed up at every response token."""

from __future__ import annotations

from areal_cppo.core import view_divergence
from areal_cppo.core.cpl import published_negative_views
from areal_cppo.metrics import UPDATE, Metric
from areal_cppo.step.objectives.base import Objective
from areal_cppo.step.objectives.tokens import at_gate
from areal_cppo.step.token_metrics import TokenRecord, record_counts, record_means

DIVERGENCE = Metric(
    "toy_divergence",
    "Toy, divergence",
    "nats",
    "How far the prediction moves under the negative view.",
    key=f"{UPDATE}toy/divergence",
)
METRICS = (DIVERGENCE,)


class Toy(Objective):
    scope = "toy"

    @classmethod
    def views_of(cls, config):
        return {"negative": published_negative_views()}

    def look(self, micro_batch, tokens):
        return self.view(micro_batch, tokens, "negative", has_grad=False)

    def compare(self, micro_batch, tokens, views, hidden, project, statistics):
        anchor, labels = hidden[at_gate(micro_batch, tokens)], tokens.labels[tokens.at]
        return view_divergence(anchor, views, project, labels, grad=("anchor",))

    def loss(self, tokens, compared, logprobs):
        record = TokenRecord(tokens.gate)
        record_counts({"toy/tokens": record.everywhere})
        record_means("toy/tokens", {DIVERGENCE: record.at(tokens.at, compared)})
        return -compared.sum() / self.gated.count


OBJECTIVE = Toy
