"""Some of a group's responses in place of all of them: which ones, and their weights.

Not of the paper, in which every response with a positive advantage goes through both
views. Of the ``n`` responses of a group that pass the gate ``k`` are drawn, and each
counts ``n / k`` times. A response is drawn with probability ``k / n``, so that the
expectation of every sum over responses is the sum over all of them.

Letters: ``B`` responses of a group.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from areal_cppo.checks import COUNT, check_argument
from areal_cppo.core.views import image_digest, view_seed


def draw_responses(
    gated: Tensor, tokens: Sequence[Tensor], most: int, *, run_seed: int, version: int
) -> Tensor:
    """Draw at most so many of a group's gated responses.

    Every response gets a number of its own from the run's seed, the policy version and
    its tokens (equal ones are told apart by their count), and those with the lowest are
    drawn. So it is the same for every order of the responses, padding and rank.

    Parameters
    ----------
    gated
        ``[B]`` bool.
    tokens
        Each response's token ids, its prompt's included, padding not: ``[S]`` ints.
    most
        How many are drawn, >= 1; all if fewer are gated.
    run_seed, version
        Of the run, and the policy version.

    Returns
    -------
    Tensor
        ``[B]`` fp32: how often a response counts, ``n / k``; 0 if it was not drawn.

    Raises
    ------
    ValueError
        ``most`` is not an integer >= 1.
    """
    check_argument("most", most, COUNT, "set cpl.responses, or null for all")
    weights = torch.zeros(len(gated), device=gated.device)
    candidates = gated.nonzero().flatten().tolist()
    seen: Counter[bytes] = Counter()
    numbers = {}
    for i in candidates:
        digest = image_digest(tokens[i].long())
        own = digest + str(seen[digest]).encode()
        numbers[i] = view_seed(run_seed, version, own, "responses")
        seen[digest] += 1
    drawn = sorted(candidates, key=numbers.__getitem__)[:most]
    weights[drawn] = len(candidates) / max(len(drawn), 1)
    return weights
