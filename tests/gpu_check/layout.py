"""A row in which responses share their prompt, and the same with nothing shared.

Letters: `T` tokens of the shared row, `K` keys of its segments, `U` tokens of the row
that repeats each prompt, `H` heads, `E` size of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from areal_cppo.step.attention import Packing


@dataclass(frozen=True)
class Group:
    """A prompt and its responses: in the shared row the prompt comes first.

    Attributes
    ----------
    start
        Where in the row.
    prompt
        Its tokens.
    responses
        Tokens of each response.
    """

    start: int
    prompt: int
    responses: tuple[int, ...]

    def own(self) -> list[tuple[int, int]]:
        """Where each response is, and its tokens."""
        at, found = self.start + self.prompt, []
        for length in self.responses:
            found.append((at, length))
            at += length
        return found


class SharedRow:
    """Groups one behind the other.

    Parameters
    ----------
    groups
        Of each the prompt's tokens and those of its responses.
    device
        Where index tensors are.
    """

    def __init__(self, groups: tuple[tuple[int, tuple[int, ...]], ...], device):
        self.device = device
        self.groups, at = [], 0
        for prompt, responses in groups:
            self.groups.append(Group(at, prompt, responses))
            at += prompt + sum(responses)
        self.tokens = at

    def packing(self, kernel: str) -> Packing:
        """As `areal_cppo.step.rows` lays it out."""
        queries, keys, index = [], [], []
        for group in self.groups:
            prompt = torch.arange(group.start, group.start + group.prompt)
            queries.append(group.prompt)
            keys.append(group.prompt)
            index.append(prompt)
            for at, length in group.own():
                queries.append(length)
                keys.append(group.prompt + length)
                index += [prompt, torch.arange(at, at + length)]
        index = torch.cat(index).to(self.device)
        return Packing(queries, keys, index, self.device, kernel)

    @cached_property
    def repeated(self) -> Tensor:
        """The tokens of the row that repeats prompts: int64 `[U]`."""
        pieces = []
        for group in self.groups:
            prompt = torch.arange(group.start, group.start + group.prompt)
            for at, length in group.own():
                pieces += [prompt, torch.arange(at, at + length)]
        return torch.cat(pieces).to(self.device)

    @cached_property
    def first(self) -> Tensor:
        """Where in that row each token stands first: int64 `[T]`."""
        first = torch.full((self.tokens,), -1)
        for place, token in reversed(list(enumerate(self.repeated.tolist()))):
            first[token] = place
        return first.to(self.device)

    def apart(self, kernel: str) -> Packing:
        """Each response a sequence of its own, with its prompt before it."""
        lengths = [g.prompt + n for g in self.groups for n in g.responses]
        return Packing(lengths, lengths, None, self.device, kernel)

    def mask(self, *, top_left: bool = False) -> Tensor:
        """Who sees whom: bool `[T, T]`.

        `top_left`: as a kernel would have it that aligns the causal mask of a segment
        to its first query and key. It is wrong.
        """
        seen = torch.zeros(self.tokens, self.tokens, dtype=torch.bool)
        for group in self.groups:
            stop = group.start + group.prompt
            prompt = slice(group.start, stop)
            seen[prompt, prompt] = torch.ones(group.prompt, group.prompt).tril().bool()
            for at, length in group.own():
                own = slice(at, at + length)
                whole = torch.ones(length, group.prompt + length)
                whole = whole.tril(0 if top_left else group.prompt).bool()
                seen[own, prompt] = whole[:, : group.prompt]
                seen[own, own] = whole[:, group.prompt :]
        return seen.to(self.device)

    def responses(self) -> Tensor:
        """Which tokens belong to a response: bool `[T]`."""
        found = torch.zeros(self.tokens, dtype=torch.bool)
        for group in self.groups:
            for at, length in group.own():
                found[at : at + length] = True
        return found.to(self.device)


def draw(heads: int, tokens: int, size: int, device, seed: int) -> Tensor:
    """Noise `[1, H, T, E]`, bfloat16; the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, heads, tokens, size, generator=generator)
    return noise.to(device, torch.bfloat16)
