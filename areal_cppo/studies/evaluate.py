"""What is measured of a policy at one point of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from areal_cppo.config.experiment import CPPOConfig
from areal_cppo.studies import detection, failures
from areal_cppo.studies.spec import NO_SHIFT, Detection, EvaluationSpec
from areal_cppo.studies.tokens import (
    PERCEPTION,
    TEMPLATE,
    Measures,
    Responses,
    StudyViews,
    measure,
    respond,
    token_logits,
)
from areal_cppo.tasks.problems import DrawnProblem, ReadingTask

HELDOUT_SEED = 0  # the same problems for all runs, tasks' other seeds notwithstanding
_SAMPLING_SEED = 0


class Evaluator:
    """Measures policies on held-out problems.

    Parameters
    ----------
    model
        Holds the weights of the policy when it is asked.
    task, config
        Of the run.
    """

    def __init__(
        self,
        model: Qwen2_5_VLForConditionalGeneration,
        task: ReadingTask,
        config: CPPOConfig,
    ):
        self.model = model
        self.task = task
        self.config = config
        self.views = StudyViews(task)
        self._drawn: dict[str, list[DrawnProblem]] = {}  # by shift

    def accuracy(self, plan: EvaluationSpec, count: int) -> list[dict[str, Any]]:
        """A record of `count` held-out problems, with what is known of the tokens of
        the first sampled responses to them; and one per shift, of accuracy alone, on
        the first of them."""
        sampled = self._respond(count, self.config.actor.temperature)
        shared = {"shift": NO_SHIFT, **self._shares(self._respond(count, 0.0), sampled)}
        some = sampled.first(min(count, plan.tokens))
        records = [shared | self._tokens(some)]
        count = min(count, plan.shifted)
        for shift in plan.shifts:
            greedy = self._respond(count, 0.0, shift)
            sampled = self._respond(count, self.config.actor.temperature, shift)
            records.append({"shift": shift, **self._shares(greedy, sampled)})
        return records

    def detection(
        self, plan: Detection, folder: Path, after: bool, title: str
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Records by view and score, and others by view and role; the responses whose
        selection fails most under the run's own views go to `folder`."""
        cpl = self.config.actor.cpl
        responses = self._respond(plan.problems, self.config.actor.temperature)
        anchor = token_logits(self.model, responses, responses.pixels)
        positive_pixels = self._view(responses, "positive", cpl.views.positive)
        positive = token_logits(self.model, responses, positive_pixels)
        by_score, by_role = [], []
        own = {"own": cpl.views.negative}
        for label, specs in (own | plan.compared).items():
            pixels = self._view(responses, "negative", specs)
            negative = token_logits(self.model, responses, pixels)
            measures = measure(self.config.actor, responses, anchor, positive, negative)
            lines = detection.records(responses, measures, cpl)
            by_score += [{"view": label, **line} for line in lines]
            lines = detection.role_records(responses, measures)
            by_role += [{"view": label, **line} for line in lines]
            if label == "own" and plan.failures:
                samples = failures.worst(
                    responses,
                    measures,
                    {"positive": positive_pixels, "negative": pixels},
                    self.views.layout,
                    plan.failures,
                    title=title,
                    policy="after" if after else "before",
                )
                failures.write(folder, samples, cpl, title=title)
        return by_score, by_role

    def _respond(
        self, count: int, temperature: float, shift: str = NO_SHIFT
    ) -> Responses:
        drawn = self._drawn.setdefault(shift, [])
        drawn += [
            self.task.make_problem(HELDOUT_SEED, index, "held_out", shift)
            for index in range(len(drawn), count)
        ]
        return respond(
            self.model,
            drawn[:count],
            temperature=temperature,
            max_new_tokens=self.config.gconfig.max_new_tokens,
            seed=_SAMPLING_SEED,
        )

    def _view(
        self, responses: Responses, kind: str, specs: Sequence[Mapping[str, Any]]
    ) -> torch.Tensor:
        return self.views.make(responses.pixels, kind, specs, responses.prompts)

    def _shares(self, greedy: Responses, sampled: Responses) -> dict[str, Any]:
        n = len(greedy.scores)
        correct = [score for score in sampled.scores if score.correct]
        lucky = [score for score in correct if score.values_read < 1]
        return {
            "n": n,
            "accuracy": sum(score.correct for score in greedy.scores) / n,
            "accuracy_sampled": sum(score.correct for score in sampled.scores) / n,
            "values_read": sum(score.values_read for score in greedy.scores) / n,
            "correct_by_luck": len(lucky) / len(correct) if correct else None,
            "format": sum(score.format_ok for score in greedy.scores) / n,
            "response_tokens": float(sampled.lengths.double().mean()),
        }

    def _tokens(self, responses: Responses) -> dict[str, Any]:
        """Selection, divergences and entropies under the run's own views."""
        views = self.config.actor.cpl.views
        logits = {
            kind: token_logits(
                self.model,
                responses,
                self._view(responses, kind, getattr(views, kind)),
            )
            for kind in ("positive", "negative")
        }
        anchor = token_logits(self.model, responses, responses.pixels)
        measures = measure(self.config.actor, responses, anchor, **logits)
        truth = responses.roles == PERCEPTION
        chosen = detection.found(measures.selected, truth, len(responses.ids))
        ranked = detection.ranking(measures.gain, truth)
        correct = torch.tensor([score.correct for score in responses.scores])
        read = torch.from_numpy(truth) & correct[responses.sequences]
        return {
            "n_tokens": len(truth),
            "entropy": float(measures.anchor_entropy.mean()),
            **{f"selection_{name}": value for name, value in chosen.items()},
            **{f"gain_{name}": value for name, value in ranked.items()},
            **_of_role(measures, truth, "reading"),
            **_of_role(measures, responses.roles == TEMPLATE, "template"),
            **detection.contrast(
                self.config.actor.cpl,
                responses.labels[read],
                anchor[read],
                logits["positive"][read],
                logits["negative"][read],
                self.config.actor.temperature,
            ),
        }


def _of_role(measures: Measures, at, name: str) -> dict[str, float | None]:
    """Mean entropy and divergences of one role's tokens; None where there are none."""
    columns = {
        "entropy": measures.anchor_entropy,
        "negative_divergence": measures.negative_divergence,
        "positive_divergence": measures.positive_divergence,
    }
    return {
        f"{name}_{key}": float(column[at].mean()) if at.any() else None
        for key, column in columns.items()
    }
