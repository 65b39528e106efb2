"""Peak memory of the core at full scale: vocabulary 151,936, rows of 16,384 tokens.

Covers, in bf16 and on a CPU, what the scores, the divergences with their gradients and
the tapped rows add to the logits that exist anyway. Does not cover the model, nor the
policy loss's own memory, which is AReaL's.
"""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

import areal_cppo.core

ROOT = Path(areal_cppo.core.__file__).parents[2]

WORDS = 151_936  # Qwen2.5-VL's
ROW = 16_384  # tokens of a packed row
GATED = 2_048
SELECTED = 1_024  # a half
NEEDED = 14e9  # bytes: 5 of logits, 5 of their gradient, 2 of the views', the rest

BF16, FP32 = 2, 4
DENSE = ROW * WORDS  # elements

# Run with -I: no PYTHONPATH. VmHWM is the peak of resident memory of this program
# alone; it never falls, so that phases are measured in the order of their size.
PROGRAM = textwrap.dedent(
    f"""
    import json
    import sys

    sys.path.insert(0, {str(ROOT)!r})
    import torch
    from areal_cppo.core import (
        aggregate_token_loss,
        contrastive_perception_loss,
        entropy_gain,
        score_tokens,
        select_perception_tokens,
        tap_rows,
        token_divergence,
    )

    torch.set_num_threads(1)

    def memory(name):
        for line in open("/proc/self/status"):
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024

    def logits(rows, seed, scale):
        # 64 random rows over and over: every page is written, in seconds.
        generator = torch.Generator().manual_seed(seed)
        block = torch.randn(64, {WORDS}, generator=generator).mul_(scale).bfloat16()
        whole = torch.empty(rows // 64, 64, {WORDS}, dtype=torch.bfloat16)
        return whole.copy_(block).view(rows, {WORDS})

    anchor = logits({ROW}, 0, 3.0).requires_grad_()
    negative = logits({GATED}, 1, 1.0).requires_grad_()
    positive = logits({SELECTED}, 2, 3.0).requires_grad_()
    gated = torch.arange({GATED}) * {ROW // GATED}
    extra = {{}}

    before = memory("VmRSS")
    extra["building"] = memory("VmHWM") - before
    scores = score_tokens(anchor, negative, gated)
    gain = entropy_gain(scores.anchor_entropy, scores.negative_entropy)
    sequences = gated // 4096
    chosen = select_perception_tokens(gain, gain > 0, sequences, 0.5)
    extra["scores"] = memory("VmHWM") - before
    selected = gated[chosen]
    assert len(selected) == {SELECTED}, len(selected)

    same, picked = tap_rows(anchor, selected)
    leaf = picked.detach().requires_grad_()
    labels = torch.arange({SELECTED})
    for kind in ("kl", "k3"):
        for tensor in (leaf, positive, negative):
            tensor.grad = None
        near = token_divergence(leaf, positive, labels, kind)
        far = token_divergence(leaf, negative[chosen], labels, kind)
        token_loss = contrastive_perception_loss(near, far, 0.1)
        aggregate_token_loss(token_loss, sequences[chosen], "sequence", 4).backward()
        assert leaf.grad.dtype == torch.bfloat16
        extra[kind] = memory("VmHWM") - before
        del near, far, token_loss
    gradient = leaf.grad
    del leaf
    negative.grad = positive.grad = None

    before = memory("VmRSS")
    picked.backward(gradient)
    extra["rows"] = memory("VmHWM") - before
    assert torch.equal(anchor.grad[selected], gradient)
    print(json.dumps(extra))
    """
)


@pytest.mark.slow
def test_peak_memory_at_full_scale():
    available = psutil.virtual_memory().available
    if available < NEEDED:
        pytest.skip(
            f"needs {NEEDED / 1e9:g} GB of free memory, found {available / 1e9:.1f}"
        )
    done = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=False,
        # Huge pages: a third of the time, which goes into touching fresh memory.
        env={**os.environ, "THP_MEM_ALLOC_ENABLE": "1"},
    )
    assert done.returncode == 0, done.stderr
    extra = json.loads(done.stdout)
    print({name: f"{size / 1e9:.2f} GB" for name, size in extra.items()})
    slack = 0.1e9  # buffers of libraries, first used here
    assert extra["building"] < slack, "the peak before the start hides what follows"

    # 256 rows at a time: the copy of the anchor's, both log-probabilities, and what
    # KL needs of the same size beside them: a product, its factors.
    chunk = 256 * WORDS
    scores = chunk * BF16 + 5 * chunk * FP32
    assert extra["scores"] < scores + slack

    # In bf16: the tapped rows, the negative's selected rows, either divergence's two
    # gradients, and the gradient of all gated rows. Beside them 128 rows at a time in
    # fp32: both log-probabilities, a probability and two products.
    wide = (6 * SELECTED + GATED) * WORDS * BF16
    divergence = wide + 5 * 128 * WORDS * FP32
    assert max(extra["kl"], extra["k3"]) < divergence + slack

    # One dense gradient in the logits' dtype: the model's backward pass needs it.
    assert extra["rows"] < DENSE * BF16 + slack

    # What the naive way would add: the row's logits in fp32, once.
    naive = DENSE * FP32
    assert 2 * max(scores, divergence) < naive
