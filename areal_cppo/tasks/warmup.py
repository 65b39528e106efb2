"""Supervised warm-up: from random weights to a model that reads some values right.

Reinforcement learning needs something to reward, so the embedded demo starts from here.
The recipe is measured, not guessed:

- an auxiliary head that classifies the three values from the image tokens is trained
  along, and thrown away afterwards (without it the vision tower stays at chance for
  hundreds of steps);
- tokens that read a digit weigh 3;
- 15 % of the pictures are made uninformative, their label kept, so that the model's
  entropy rises where a picture shows nothing;
- tokens that a response must never hold (pads, vision tokens) are pushed below a
  chance of 1e-7: one sampled `<|image_pad|>` breaks the server's next request, and
  imitation alone leaves it a chance of 3e-4 a token;
- it stops on held-out accuracy, not after a number of steps: accuracy goes from .06 to
  .65 within 150 steps.

A warm-up is reproducible from its seed on one machine with one version of torch: it
runs on one thread, with deterministic algorithms. Other machines' kernels round
otherwise, and their warm-ups differ; those on a GPU can't be repeated bit by bit.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch.nn.functional import cross_entropy, softplus
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLProcessor

from areal_cppo.tasks.model import TinyModel, build_model
from areal_cppo.tasks.pixels import change_mildly, make_uninformative, patch_pixels

# Of starts between .32 and .49, one at .45 left reinforcement learning most to gain.
TARGET_ACCURACY = 0.45
MAX_STEPS = 1400

BATCH = 48
LEARNING_RATE = 2e-3
_RAMP_STEPS = 40
_BETAS = (0.9, 0.98)
_WEIGHT_DECAY = 0.05  # on matrices only
_MAX_GRADIENT_NORM = 1.0
READING_WEIGHT = 3.0
_UNINFORMATIVE_SHARE = 0.15
_BANNED_MARGIN = 16.0  # nats below all tokens together: a chance of 1e-7
_BANNED_WEIGHT = 0.1
_TELL_EVERY = 30  # steps, while its accuracy is not measured yet
_CHECK_EVERY = 10  # steps; accuracy rises by up to .01 in one
_QUICK_CHECK, _FULL_CHECK = 200, 500  # held-out problems
_CPU = torch.device("cpu")
CHECK_SEED = 1  # of the held-out stream; 0 is left for evaluations


@dataclass(frozen=True)
class Progress:
    """Where a warm-up stands: mean imitation loss since the last check, in nats a
    token (weighted), and greedy accuracy on `accuracy_n` held-out problems; NaN and 0
    where it was not measured."""

    step: int
    loss: float
    accuracy: float
    accuracy_n: int
    seconds: float


class Lesson(Protocol):
    """What a model is taught: `warm_up` asks for a loss a step, and examines it."""

    first_check: int  # after which step its accuracy is measured for the first time

    def build(self, seed: int) -> tuple[TinyModel, torch.nn.Linear]:
        """A model with random weights, and the head that is thrown away."""

    def loss(
        self, model: TinyModel, head: torch.nn.Linear, seed: int, step: int
    ) -> tuple[torch.Tensor, float]:
        """Of a step's batch: what to minimise, and the part of it that is imitation."""

    def accuracy(self, model: TinyModel, n: int) -> float:
        """On the first `n` held-out problems, greedy."""

    def processor(self) -> Qwen2_5_VLProcessor:
        """What is saved beside the model."""


@contextmanager
def _reproducible(on_cpu: bool) -> Iterator[None]:
    """One thread and on CPUs deterministic algorithms, and afterwards as before."""
    threads = torch.get_num_threads()
    strict = torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(strict or on_cpu)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)


def build_with_head(
    seed: int, width: int, n_classes: int, config: Qwen2_5_VLConfig | None = None
) -> tuple[TinyModel, torch.nn.Linear]:
    """A model and a head on `width` of its image tokens, both from `seed`."""
    model = build_model(seed, config)
    hidden = model.config.text_config.hidden_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model, torch.nn.Linear(width * hidden, n_classes)


def blind_some(pictures: Sequence[np.ndarray], rng: random.Random) -> torch.Tensor:
    """The patches of pictures `[H, W, 3]`, some of which are made uninformative."""
    shown = [
        make_uninformative(picture, rng)
        if rng.random() < _UNINFORMATIVE_SHARE
        else picture
        for picture in pictures
    ]
    return torch.cat([patch_pixels(picture[None]) for picture in shown])


def mild_some(
    pictures: Sequence[np.ndarray], share: float, rng: random.Random
) -> list[np.ndarray]:
    """Pictures `[H, W, 3]`, some of which are changed mildly."""
    return [
        change_mildly(picture, rng) if rng.random() < share else picture
        for picture in pictures
    ]


def imitation_loss(
    logits: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, banned: list[int]
) -> tuple[torch.Tensor, float]:
    """The loss of imitating tokens and keeping off others, and the first part alone.

    Parameters
    ----------
    logits, ids, weights
        `[B, T, V]`, int64 `[B, T]`, and float32 `[B, T]`, 0 where nothing is to be
        imitated.
    banned
        Ids of tokens that a response must never hold.
    """
    each = cross_entropy(logits.mT, ids, reduction="none")
    imitation = (each * weights).sum() / weights.sum()
    excess = logits[..., banned].logsumexp(-1) - logits.logsumexp(-1) + _BANNED_MARGIN
    kept_off = softplus(excess[weights > 0]).mean()
    return imitation + _BANNED_WEIGHT * kept_off, imitation.item()


def _make_optimizer(
    model: TinyModel, head: torch.nn.Linear, learning_rate: float
) -> torch.optim.AdamW:
    parameters = [*model.parameters(), *head.parameters()]
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=_BETAS,
        weight_decay=_WEIGHT_DECAY,
    )


def _check(
    model: TinyModel, lesson: Lesson, target_accuracy: float
) -> tuple[float, int]:
    """Held-out accuracy and the problems it was measured on; few while it is far."""
    quick = lesson.accuracy(model, _QUICK_CHECK)
    if quick < target_accuracy - 0.05:  # 1.5 standard errors short
        return quick, _QUICK_CHECK
    return lesson.accuracy(model, _FULL_CHECK), _FULL_CHECK


def warm_up(
    lesson: Lesson,
    seed: int,
    target_accuracy: float = TARGET_ACCURACY,
    max_steps: int = MAX_STEPS,
    progress: Callable[[Progress], None] | None = None,
    device: torch.device = _CPU,
    learning_rate: float = LEARNING_RATE,
) -> tuple[TinyModel, list[Progress]]:
    """Train a model from `seed` until its held-out accuracy reaches the target.

    Parameters
    ----------
    lesson
        What to learn.
    seed
        Of the weights, the problems and everything else.
    target_accuracy
        Greedy accuracy on 500 held-out problems at which to stop.
    max_steps
        At which to stop in any case.
    progress
        Called at each check of the accuracy, and now and then before the first.
    device
        Where the model learns.
    learning_rate
        That of our size; larger models need a lower one.

    Returns
    -------
    tuple
        The model in evaluation mode, and what `progress` was called with.
    """
    with _reproducible(device.type == "cpu"):
        model, head = (module.to(device).train() for module in lesson.build(seed))
        optimizer = _make_optimizer(model, head, learning_rate)
        history: list[Progress] = []
        recent: list[float] = []
        start = time.perf_counter()
        for step in range(1, max_steps + 1):
            loss, imitation = lesson.loss(model, head, seed, step)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), _MAX_GRADIENT_NORM)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * min(1.0, step / _RAMP_STEPS)
            optimizer.step()
            optimizer.zero_grad()
            recent.append(imitation)
            due = step >= lesson.first_check and step % _CHECK_EVERY == 0
            measured = due or step == max_steps
            if not measured and step % _TELL_EVERY:
                continue
            accuracy, n = math.nan, 0
            if measured:
                accuracy, n = _check(model, lesson, target_accuracy)
            mean_loss = sum(recent) / len(recent)
            seconds = time.perf_counter() - start
            history.append(Progress(step, mean_loss, accuracy, n, seconds))
            recent.clear()
            if progress is not None:
                progress(history[-1])
            if accuracy >= target_accuracy and n == _FULL_CHECK:
                break
    return model.eval(), history


def save_checkpoint(model: TinyModel, lesson: Lesson, folder: str | Path) -> None:
    """Write a complete model folder: weights, configuration, tokenizer, processor."""
    model.save_pretrained(folder)
    lesson.processor().save_pretrained(folder)


def print_progress(progress: Progress) -> None:
    """Print one line: step, loss, held-out accuracy, seconds."""
    n = progress.accuracy_n
    accuracy = f"held-out accuracy {progress.accuracy:.3f} (n={n})  " if n else ""
    print(
        f"step {progress.step:4d}  loss {progress.loss:.3f}  {accuracy}"
        f"{progress.seconds:.0f} s",
        flush=True,
    )


def make_model(
    lesson: Lesson,
    out_dir: str | Path,
    seed: int = 0,
    target_accuracy: float = TARGET_ACCURACY,
    max_steps: int = MAX_STEPS,
) -> list[Progress]:
    """Warm a model up and write its folder, printing a line at each check.

    Returns
    -------
    list[Progress]
        What was printed.

    Raises
    ------
    RuntimeError
        If the target was not reached within `max_steps`; nothing is written then.
    """
    model, history = warm_up(lesson, seed, target_accuracy, max_steps, print_progress)
    if history[-1].accuracy < target_accuracy:
        raise RuntimeError(
            f"held-out accuracy is {history[-1].accuracy:.3f} after {max_steps} steps, "
            f"short of {target_accuracy}; try more steps or another seed"
        )
    save_checkpoint(model, lesson, out_dir)
    return history
