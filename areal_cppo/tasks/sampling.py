"""Generates with the tiny model and scores it, many pictures at once.

Letters: `B` responses, `T` response tokens, `P` patches of one picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache

from areal_cppo.tasks.model import (
    TinyModel,
    batches,
    embed_ids,
    embed_pictures,
    embed_prompts,
    in_order,
    rotary_positions,
)
from areal_cppo.tasks.pixels import patch_pixels, stack_images
from areal_cppo.tasks.problems import DrawnProblem
from areal_cppo.tasks.prompts import TaskPrompt
from areal_cppo.tasks.responses import EOS, Score
from areal_cppo.tasks.tokenizer import IDS, PAD_ID, decode

MAX_NEW_TOKENS = 40  # a right response has 32 to 36


def problem_pixels(problems: Sequence[DrawnProblem]) -> torch.Tensor:
    """The problems' pictures for the model: float32 `[sum of P, 1176]`."""
    parts = []
    for size, some in groupby([p.image for p in problems], lambda image: image.size):
        parts.append(patch_pixels(stack_images(list(some), size)))
    return torch.cat(parts)


class Sampled(NamedTuple):
    """Responses, and how likely each token was where it was drawn.

    Attributes
    ----------
    ids
        int64 `[B, T]`; pads after `<eos>`.
    logprobs
        float32 `[B, T]`, nats, of the tempered distribution that the token was drawn
        from (greedy: of the untempered one); 0 at pads.
    lengths
        int64 `[B]`: tokens up to `<eos>`, itself included.
    """

    ids: torch.Tensor
    logprobs: torch.Tensor
    lengths: torch.Tensor


@torch.no_grad()
def sample(
    model: TinyModel,
    pixel_values: torch.Tensor,
    *,
    prompts: Sequence[TaskPrompt] | None = None,
    samples: int = 1,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Sampled:
    """Generate responses to prompts, with their log-probabilities.

    The prompt of a picture is computed once for all of its responses. What is drawn at
    a step does not depend on which responses have ended.

    Parameters
    ----------
    pixel_values
        float32 `[sum of P, 1176]`.
    prompts
        One per picture; by default that of most tasks. Those of one length are sampled
        together, with draws of their own.
    samples
        Responses per picture; those of one picture are neighbours in the result.
    temperature
        0 is greedy.
    generator
        Source of the draws; torch's global one if not given.
    max_new_tokens
        At which a response is cut off.

    Returns
    -------
    Sampled
        Of `n_pictures * samples` responses, T <= max_new_tokens.

    Raises
    ------
    ValueError
        If the temperature is negative.
    """
    if temperature < 0:
        raise ValueError(f"expected a temperature of 0 or more, got {temperature}")
    if prompts is None:
        prompts = [TaskPrompt()] * (len(pixel_values) // TaskPrompt().n_patches)
    images = embed_pictures(model, pixel_values, prompts)
    draw = partial(
        _sample, model, samples=samples, temperature=temperature, limit=max_new_tokens
    )
    groups = batches(prompts)
    if len(groups) == 1:
        return draw(torch.stack(images), prompts, generator=generator)
    seeds = torch.randint(2**62, (len(groups),), generator=generator).tolist()
    parts = []
    for group, seed in zip(groups, seeds, strict=True):
        own = torch.Generator().manual_seed(seed)
        seen = torch.stack([images[i] for i in group])
        parts.append(draw(seen, [prompts[i] for i in group], generator=own))
    width = max(part.ids.shape[1] for part in parts)
    rows = [
        (group[:, None] * samples + torch.arange(samples)).flatten() for group in groups
    ]
    return Sampled(
        in_order([_widen(part.ids, width) for part in parts], rows),
        in_order([_widen(part.logprobs, width) for part in parts], rows),
        in_order([part.lengths for part in parts], rows),
    )


def _widen(rows: torch.Tensor, width: int) -> torch.Tensor:
    """Rows `[B, T]` filled up with zeros, pads among ids, to `[B, width]`."""
    return torch.nn.functional.pad(rows, (0, width - rows.shape[1]))


def _sample(
    model: TinyModel,
    images: torch.Tensor,
    prompts: Sequence[TaskPrompt],
    *,
    samples: int,
    temperature: float,
    generator: torch.Generator | None,
    limit: int,
) -> Sampled:
    """`sample` for prompts of one length; image tokens `[n_pictures, I, hidden]`."""
    inputs = embed_prompts(model, images, prompts)
    pictures, start = inputs.shape[:2]
    batch = pictures * samples
    positions = rotary_positions(model, start + limit, prompts)
    cache = DynamicCache(config=model.config.text_config)
    run = partial(model.model.language_model, past_key_values=cache, use_cache=True)
    hidden = run(inputs_embeds=inputs, position_ids=positions[..., :start])
    positions = positions.repeat_interleave(samples, dim=1)
    last = hidden.last_hidden_state[:, -1].repeat_interleave(samples, dim=0)
    if samples > 1:
        cache.batch_repeat_interleave(samples)
    ended = torch.zeros(batch, dtype=torch.bool)
    tokens, logprobs, lengths = [], [], torch.zeros(batch, dtype=torch.long)
    while True:
        log_p = (model.lm_head(last).cpu() / (temperature or 1.0)).log_softmax(-1)
        if temperature == 0:
            token = log_p.argmax(-1)
        else:
            token = torch.multinomial(log_p.exp(), 1, generator=generator).squeeze(1)
        chosen = log_p.gather(-1, token[:, None]).squeeze(1)
        tokens.append(token.masked_fill(ended, PAD_ID))
        logprobs.append(chosen.masked_fill(ended, 0.0))
        lengths += ~ended
        ended = ended | (token == IDS[EOS])
        if len(tokens) == limit or ended.all():
            break
        place = start + len(tokens) - 1
        hidden = run(
            inputs_embeds=embed_ids(model, tokens[-1])[:, None],
            position_ids=positions[:, :, place : place + 1],
        )
        last = hidden.last_hidden_state[:, -1]
    return Sampled(torch.stack(tokens, dim=1), torch.stack(logprobs, dim=1), lengths)


def score_responses(
    response_ids: torch.Tensor, problems: Sequence[DrawnProblem]
) -> list[Score]:
    """Score responses `[B, T]` to as many problems."""
    return [
        problem.score("".join(tokens))
        for tokens, problem in zip(decode(response_ids), problems, strict=True)
    ]


def answer(
    model: TinyModel,
    problems: Sequence[DrawnProblem],
    batch_size: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[Score]:
    """What one response to each problem is worth; as `evaluate`."""
    if not problems:
        raise ValueError("expected at least one problem, got none")
    generator = torch.Generator().manual_seed(seed)
    was_training = model.training
    model.eval()
    scores: list[Score] = []
    for i in range(0, len(problems), batch_size):
        some = problems[i : i + batch_size]
        sampled = sample(
            model,
            problem_pixels(some),
            prompts=[problem.prompt for problem in some],
            temperature=temperature,
            generator=generator,
        )
        scores += score_responses(sampled.ids, some)
    model.train(was_training)
    return scores


def evaluate(
    model: TinyModel,
    problems: Sequence[DrawnProblem],
    *,
    batch_size: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy on problems, one response each.

    Parameters
    ----------
    temperature
        0 is greedy.
    seed
        Of the draws, where the temperature is not 0.

    Returns
    -------
    dict
        `n` problems, and shares of them: `accuracy`, `format`, `values_read` (of all
        values), `consistent`; see `responses.Score`. And `correct`, a character per
        problem, `1` where its answer is right, so that two models can be compared in
        pairs.

    Raises
    ------
    ValueError
        If there are no problems.
    """
    scores = answer(model, problems, batch_size, temperature, seed)
    n = len(scores)
    return {
        "accuracy": sum(score.correct for score in scores) / n,
        "format": sum(score.format_ok for score in scores) / n,
        "values_read": sum(score.values_read for score in scores) / n,
        "consistent": sum(score.consistent for score in scores) / n,
        "n": n,
        "correct": "".join("1" if score.correct else "0" for score in scores),
    }
