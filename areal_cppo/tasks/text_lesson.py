"""The tiny model for a user's own data: its tokens are bytes, its answers short texts.

The model is that of the synthetic tasks with a larger vocabulary: six control tokens,
two that say who speaks, `<think>`, `</think>`, `\\boxed{` and the 256 bytes. Letters:
`B` problems, `T` tokens of prompt and response.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLProcessor

from areal_cppo.tasks.model import TinyModel, embed_images, tiny_config
from areal_cppo.tasks.pixels import image_grid, patch_pixels, stack_images
from areal_cppo.tasks.responses import (
    BOXED,
    CONTROL_TOKENS,
    EOS,
    IMAGE,
    N_IMAGE_TOKENS,
    THINK,
    THINK_END,
    VISION_END,
    VISION_START,
)
from areal_cppo.tasks.text import N_LABELS, TextProblem, guess, make_problem
from areal_cppo.tasks.tokenizer import PAD_ID, build_processor, wrap
from areal_cppo.tasks.warmup import (
    BATCH,
    CHECK_SEED,
    READING_WEIGHT,
    blind_some,
    build_with_head,
    imitation_loss,
)

USER, ASSISTANT = "<|user|>", "<|assistant|>"
SPECIAL = (*CONTROL_TOKENS, USER, ASSISTANT)
TAGS = (THINK, THINK_END, BOXED)
VOCABULARY = (*SPECIAL, *TAGS, *sorted(pre_tokenizers.ByteLevel.alphabet()))
IDS = {token: i for i, token in enumerate(VOCABULARY)}
MAX_LENGTH = 1024  # tokens, prompt and response
TARGET_ACCURACY = 0.75  # of responses that look
MAX_NEW_TOKENS = 56  # a right response has at most 55

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    f"{{{{ '{ASSISTANT}' if message['role'] == 'assistant' else '{USER}' }}}}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}"
    f"{VISION_START}{IMAGE}{VISION_END}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{ASSISTANT}{{% endif %}}"
)

_BANNED = [IDS[token] for token in SPECIAL if token != EOS]
_LOOK_STEPS = 180  # without a guess; a habit is learnt fast afterwards
_GUESSES = 0.5  # of the responses
_FIRST_IMAGE = 2  # place of the first image token, after two that every prompt has
_CELL_WEIGHT = 3.0  # of the head's loss


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer: any text is encoded, exact both ways; no token is for unknowns."""
    core = Tokenizer(models.BPE(vocab=IDS, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    core.decoder = decoders.ByteLevel()
    for tokens, special in ((SPECIAL, True), (TAGS, False)):
        core.add_tokens(
            [AddedToken(text, special=special, normalized=False) for text in tokens]
        )
    return wrap(core, MAX_LENGTH, CHAT_TEMPLATE)


class TextLesson:
    """To say what it sees and to answer a question (`warmup.Lesson`).

    First without a guess, else it doesn't learn to look; then with them.
    """

    first_check = _LOOK_STEPS + 60

    def __init__(self) -> None:
        self.tokenizer = build_tokenizer()

    def build(self, seed: int) -> tuple[TinyModel, torch.nn.Linear]:
        """The head says of each image token what its cell shows."""
        return build_with_head(seed, 1, N_LABELS, tiny_config(VOCABULARY, MAX_LENGTH))

    def loss(
        self, model: TinyModel, head: torch.nn.Linear, seed: int, step: int
    ) -> tuple[torch.Tensor, float]:
        """Of a step's batch."""
        rng = random.Random(f"areal_cppo.text.warmup/{seed}/{step}")
        some = range(step * BATCH, (step + 1) * BATCH)
        problems = [make_problem(seed, i, "warm_up") for i in some]
        pixels = blind_some(stack_images([p.image for p in problems]), rng)
        prompts = self.prompts(problems)
        guesses = _GUESSES if step > _LOOK_STEPS else 0.0
        texts = [
            guess(rng) if rng.random() < guesses else problem.response
            for problem in problems
        ]
        said = self.tokenizer([text + EOS for text in texts])["input_ids"]
        rows = [prompt + ids for prompt, ids in zip(prompts, said, strict=True)]
        ids = torch.full((BATCH, max(map(len, rows))), PAD_ID)
        weights = torch.zeros(ids.shape)
        for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
            ids[i, : len(row)] = torch.tensor(row)
            weights[i, len(prompt) : len(row)] = _weights(row[len(prompt) :])
        images = embed_images(model, pixels)
        logits = _logits(model, images, ids)
        loss, imitation = imitation_loss(logits, ids[:, 1:], weights[:, 1:], _BANNED)
        labels = torch.tensor([problem.labels for problem in problems])
        return loss + _CELL_WEIGHT * cross_entropy(head(images).mT, labels), imitation

    def prompts(self, problems: Sequence[TextProblem]) -> list[list[int]]:
        """Token ids of the problems' prompts, an id for each image token."""
        image = f"{VISION_START}{IMAGE * N_IMAGE_TOKENS}{VISION_END}"
        return self.tokenizer(
            [f"{USER}{image}{problem.question}{ASSISTANT}" for problem in problems]
        )["input_ids"]

    @torch.no_grad()
    def responses(
        self, model: TinyModel, problems: Sequence[TextProblem], look: bool = False
    ) -> list[str]:
        """Greedy responses, without `<eos>`; with `look` none begins as a guess."""
        was_training = model.training
        prompts = self.prompts(problems)
        width = max(map(len, prompts))
        ids = torch.tensor([[PAD_ID] * (width - len(ids)) + ids for ids in prompts])
        made = model.eval().generate(
            input_ids=ids,
            attention_mask=(ids != PAD_ID).long(),
            mm_token_type_ids=(ids == IDS[IMAGE]).int(),
            pixel_values=patch_pixels(stack_images([p.image for p in problems])),
            image_grid_thw=image_grid(len(problems)),
            do_sample=False,
            max_new_tokens=MAX_NEW_TOKENS,
            begin_suppress_tokens=[IDS[BOXED]] if look else None,
        )
        model.train(was_training)
        return self.tokenizer.batch_decode(made[:, width:], skip_special_tokens=True)

    def accuracy(self, model: TinyModel, n: int) -> float:
        """Of greedy responses that look, to the first `n` held-out problems."""
        problems = [make_problem(CHECK_SEED, i, "held_out") for i in range(n)]
        said = self.responses(model, problems, look=True)
        pairs = zip(said, problems, strict=True)
        return sum(text.endswith(f"{BOXED}{p.answer}}}") for text, p in pairs) / n

    def processor(self) -> Qwen2_5_VLProcessor:
        """The stock one with these tokens."""
        return build_processor(self.tokenizer)


def _weights(response: list[int]) -> torch.Tensor:
    """Of a response's tokens: the first letters of its words are what it has read."""
    starts = {IDS[THINK], IDS[BOXED], IDS["\u0120"]}  # the last: a space
    read = [False, *(before in starts for before in response[:-1])]
    return torch.tensor([READING_WEIGHT if it else 1.0 for it in read])


def _logits(model: TinyModel, images: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Of tokens 1 to T - 1 of `ids` `[B, T]`, given image tokens `[B, 9, hidden]`."""
    inputs = model.get_input_embeddings()(ids[:, :-1])
    end = _FIRST_IMAGE + images.shape[1]
    inputs = torch.cat([inputs[:, :_FIRST_IMAGE], images, inputs[:, end:]], dim=1)
    kinds = torch.zeros(1, inputs.shape[1], dtype=torch.int)
    kinds[:, _FIRST_IMAGE:end] = 1
    row = ids[:1, :-1]
    positions, _ = model.model.get_rope_index(row, kinds, image_grid(1))
    hidden = model.model.language_model(
        inputs_embeds=inputs,
        position_ids=positions.expand(3, *inputs.shape[:2]),
        use_cache=False,
    ).last_hidden_state
    return model.lm_head(hidden)
