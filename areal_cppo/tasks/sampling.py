"""Generates with, scores and looks into the model, many pictures at once.

All problems of all tasks share one prompt, so a batch needs no padding, and its rotary
positions are those of one sequence. The vision tower and the language model are run as
they are; only what `generate` of transformers does around them is left out.

Letters: `B` responses, `T` response tokens, `V` vocabulary (29), `P` patches of one
picture (36).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import (
    AutoTokenizer,
    DynamicCache,
    PreTrainedTokenizerFast,
    Qwen2_5_VLForConditionalGeneration,
)

from areal_cppo.patches.qwen_positions import correct_image_positions
from areal_cppo.tasks import vocabulary
from areal_cppo.tasks.pixels import (
    N_PATCHES,
    image_grid,
    patch_pixels,
    stack_images,
)
from areal_cppo.tasks.responses import Score
from areal_cppo.tasks.task import Problem

correct_image_positions()  # so that this process sees pictures as the server does

MAX_NEW_TOKENS = 40  # a right response has 32 to 36
_IDS = {token: i for i, token in enumerate(vocabulary.VOCABULARY)}
_PROMPT_TOKENS = (
    vocabulary.VISION_START,
    *[vocabulary.IMAGE] * vocabulary.N_IMAGE_TOKENS,
    vocabulary.VISION_END,
    *vocabulary.QUESTION,
)
PROMPT_IDS = tuple(_IDS[token] for token in _PROMPT_TOKENS)
_PAD_ID, _EOS_ID = _IDS[vocabulary.PAD], _IDS[vocabulary.EOS]
_IMAGE_ID = _IDS[vocabulary.IMAGE]


def load(
    folder: str | Path,
) -> tuple[Qwen2_5_VLForConditionalGeneration, PreTrainedTokenizerFast]:
    """Load a model folder for use: the model in evaluation mode, and its tokenizer."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa"
    )
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def encode(texts: Iterable[str]) -> torch.Tensor:
    """Response texts as token ids: int64 `[B, T]`, filled up with pad at the end."""
    rows = [[_IDS[token] for token in vocabulary.split_tokens(text)] for text in texts]
    width = max(len(row) for row in rows)
    return torch.tensor([row + [_PAD_ID] * (width - len(row)) for row in rows])


def decode(response_ids: torch.Tensor) -> list[list[str]]:
    """Token ids `[B, T]` as lists of token strings, without the pads after the end.

    Joined, a list is what the tokenizer decodes; `responses.token_roles` takes it as it
    is.
    """
    responses = []
    for row in response_ids.tolist():
        while row and row[-1] == _PAD_ID:
            row.pop()
        responses.append([vocabulary.VOCABULARY[i] for i in row])
    return responses


def problem_pixels(problems: Sequence[Problem]) -> torch.Tensor:
    """The problems' pictures for the model: float32 `[B * P, 1176]`."""
    return patch_pixels(stack_images([problem.image for problem in problems]))


def embed_images(
    model: Qwen2_5_VLForConditionalGeneration, pixel_values: torch.Tensor
) -> torch.Tensor:
    """Image tokens of pictures `[B * P, 1176]`: `[B, 9, hidden]`, with gradient."""
    grid = image_grid(pixel_values.shape[0] // N_PATCHES)
    features = model.model.visual(pixel_values, grid_thw=grid).pooler_output
    return features.reshape(grid.shape[0], vocabulary.N_IMAGE_TOKENS, -1)


def _positions(
    model: Qwen2_5_VLForConditionalGeneration, length: int, batch: int
) -> torch.Tensor:
    """Rotary positions of prompt and response: int64 `[3, batch, length]`."""
    row = torch.zeros(1, length, dtype=torch.long)
    row[0, : len(PROMPT_IDS)] = torch.tensor(PROMPT_IDS)
    kinds = (row == _IMAGE_ID).int()
    positions, _ = model.model.get_rope_index(row, kinds, image_grid(1))
    return positions.expand(3, batch, length)


def _embed_prompt(
    model: Qwen2_5_VLForConditionalGeneration, images: torch.Tensor
) -> torch.Tensor:
    """The prompt around image tokens `[B, 9, hidden]`: `[B, prompt, hidden]`."""
    embed = model.get_input_embeddings()
    prompt = embed(torch.tensor(PROMPT_IDS)).expand(images.shape[0], -1, -1)
    return torch.cat([prompt[:, :1], images, prompt[:, 1 + images.shape[1] :]], dim=1)


def logits_from_images(
    model: Qwen2_5_VLForConditionalGeneration,
    images: torch.Tensor,
    response_ids: torch.Tensor,
) -> torch.Tensor:
    """Logits of each response token, given image tokens made before.

    Parameters
    ----------
    images
        `[B, 9, hidden]` of `embed_images`, repeated where responses share a picture.
    response_ids
        int64 `[B, T]`, without the prompt.

    Returns
    -------
    Tensor
        `[B, T, V]`: position `t` predicts `response_ids[:, t]`; with gradient.
    """
    prompt = _embed_prompt(model, images)
    said = model.get_input_embeddings()(response_ids[:, :-1])
    inputs = torch.cat([prompt, said], dim=1)
    hidden = model.model.language_model(
        inputs_embeds=inputs,
        position_ids=_positions(model, inputs.shape[1], inputs.shape[0]),
        use_cache=False,
    ).last_hidden_state
    return model.lm_head(hidden[:, len(PROMPT_IDS) - 1 :])


def response_logits(
    model: Qwen2_5_VLForConditionalGeneration,
    pixel_values: torch.Tensor,
    response_ids: torch.Tensor,
) -> torch.Tensor:
    """Logits of each response token, given its picture.

    Parameters
    ----------
    pixel_values
        float32 `[B * P, 1176]`, one picture per response.
    response_ids
        int64 `[B, T]`, without the prompt.

    Returns
    -------
    Tensor
        `[B, T, V]`: position `t` predicts `response_ids[:, t]`; with gradient.
    """
    return logits_from_images(model, embed_images(model, pixel_values), response_ids)


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
    model: Qwen2_5_VLForConditionalGeneration,
    pixel_values: torch.Tensor,
    *,
    samples: int = 1,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Sampled:
    """Generate responses to the task's prompt, with their log-probabilities.

    The prompt of a picture is computed once for all of its responses. What is drawn at
    a step does not depend on which responses have ended.

    Parameters
    ----------
    pixel_values
        float32 `[n_pictures * P, 1176]`.
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
    inputs = _embed_prompt(model, embed_images(model, pixel_values))
    pictures, start = inputs.shape[:2]
    batch = pictures * samples
    positions = _positions(model, start + max_new_tokens, batch)
    cache = DynamicCache(config=model.config.text_config)
    run = partial(model.model.language_model, past_key_values=cache, use_cache=True)
    hidden = run(inputs_embeds=inputs, position_ids=positions[:, :pictures, :start])
    last = hidden.last_hidden_state[:, -1].repeat_interleave(samples, dim=0)
    if samples > 1:
        cache.batch_repeat_interleave(samples)
    ended = torch.zeros(batch, dtype=torch.bool)
    tokens, logprobs, lengths = [], [], torch.zeros(batch, dtype=torch.long)
    while True:
        log_p = (model.lm_head(last) / (temperature or 1.0)).log_softmax(-1)
        if temperature == 0:
            token = log_p.argmax(-1)
        else:
            token = torch.multinomial(log_p.exp(), 1, generator=generator).squeeze(1)
        chosen = log_p.gather(-1, token[:, None]).squeeze(1)
        tokens.append(token.masked_fill(ended, _PAD_ID))
        logprobs.append(chosen.masked_fill(ended, 0.0))
        lengths += ~ended
        ended = ended | (token == _EOS_ID)
        if len(tokens) == max_new_tokens or ended.all():
            break
        place = start + len(tokens) - 1
        hidden = run(
            inputs_embeds=model.get_input_embeddings()(tokens[-1])[:, None],
            position_ids=positions[:, :, place : place + 1],
        )
        last = hidden.last_hidden_state[:, -1]
    return Sampled(torch.stack(tokens, dim=1), torch.stack(logprobs, dim=1), lengths)


def generate(
    model: Qwen2_5_VLForConditionalGeneration,
    pixel_values: torch.Tensor,
    *,
    samples: int = 1,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> torch.Tensor:
    """The tokens of `sample` alone: int64 `[n_pictures * samples, T]`."""
    return sample(
        model,
        pixel_values,
        samples=samples,
        temperature=temperature,
        generator=generator,
        max_new_tokens=max_new_tokens,
    ).ids


def score_responses(
    response_ids: torch.Tensor, problems: Sequence[Problem]
) -> list[Score]:
    """Score responses `[B, T]` to as many problems."""
    responses = decode(response_ids)
    return [
        problem.score("".join(tokens))
        for tokens, problem in zip(responses, problems, strict=True)
    ]


def evaluate(
    model: Qwen2_5_VLForConditionalGeneration,
    problems: Sequence[Problem],
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
    if not problems:
        raise ValueError("expected at least one problem, got none")
    generator = torch.Generator().manual_seed(seed)
    was_training = model.training
    model.eval()
    scores: list[Score] = []
    for i in range(0, len(problems), batch_size):
        some = problems[i : i + batch_size]
        ids = generate(
            model, problem_pixels(some), temperature=temperature, generator=generator
        )
        scores += score_responses(ids, some)
    model.train(was_training)
    n = len(scores)
    return {
        "accuracy": sum(score.correct for score in scores) / n,
        "format": sum(score.format_ok for score in scores) / n,
        "values_read": sum(score.values_read for score in scores) / n,
        "consistent": sum(score.consistent for score in scores) / n,
        "n": n,
        "correct": "".join("1" if score.correct else "0" for score in scores),
    }
