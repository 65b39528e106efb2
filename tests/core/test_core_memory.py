"""Peak memory of the core at full scale: vocabulary 151,936, a row of 8,192 tokens.

Covers, in bf16 and on a CPU, what statistics, scores and divergences with their
gradients need beyond hidden states and output head. Does not cover the model, nor the
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
ROW = 8_192  # response tokens of a packed row
GATED = 2_048
SELECTED = 1_024  # a half
WIDTH = 64  # of hidden states; a real model's would only take longer
NEEDED = 8e9  # bytes

BF16, FP32 = 2, 4

# Run with -I: no PYTHONPATH. VmHWM is the peak of resident memory of this program
# alone; it never falls, so that phases are measured in the order of their size.
PROGRAM = textwrap.dedent(
    f"""
    import json
    import sys

    sys.path.insert(0, {str(ROOT)!r})
    import torch
    from areal_cppo.core import score_hidden, token_statistics, view_divergences

    torch.set_num_threads(1)

    def memory(name):
        for line in open("/proc/self/status"):
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024

    def draw(rows, seed):
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(rows, {WIDTH}, generator=generator)
        return drawn.bfloat16().requires_grad_()

    weight = draw({WORDS}, 9)
    weight.grad = torch.zeros_like(weight)
    project = lambda rows: rows @ weight.T
    anchor, negative, positive = draw({ROW}, 0), draw({GATED}, 1), draw({GATED}, 2)
    gated = slice(0, {GATED})
    labels = torch.arange({ROW})
    extra = {{}}
    before = memory("VmRSS")
    extra["building"] = memory("VmHWM") - before
    scores = score_hidden(anchor[gated], negative, project)
    extra["scores"] = memory("VmHWM") - before
    some = slice(0, {SELECTED})
    near, far = view_divergences(
        anchor[some], positive[some], negative[some], project, labels[some]
    )
    (near.sum() + far.sum()).backward()
    extra["divergences"] = memory("VmHWM") - before
    token_statistics(anchor, project, labels).logprobs.sum().backward()
    extra["statistics"] = memory("VmHWM") - before
    assert anchor.grad.abs().sum() > 0
    print(json.dumps(extra))
    """
)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # minutes of one core
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
    slack = 0.15e9  # buffers of libraries, first used here
    assert extra["building"] < slack, "the peak before the start hides what follows"

    # 256 rows at a time: both passes' logits, their log-probabilities, and what KL
    # needs of the same size beside them: a product, its factors.
    chunk = 256 * WORDS
    assert extra["scores"] < chunk * (2 * BF16 + 5 * FP32) + slack

    # 512 rows of logits of three passes with their gradients, and, inside, 128 rows at
    # a time in fp32.
    chunk = 512 * WORDS
    divergences = chunk * 8 * BF16 + 5 * 128 * WORDS * FP32
    assert extra["divergences"] < divergences + slack

    # 1,024 rows: logits and their gradient, and in fp32 log-probabilities before and
    # after their floor and two gradients on the way.
    chunk = 1024 * WORDS
    statistics = chunk * (2 * BF16 + 5 * FP32)
    assert extra["statistics"] < statistics + slack

    # What the naive way would add: the row's logits in fp32, once.
    naive = ROW * WORDS * FP32
    assert extra["statistics"] < 0.8 * naive and extra["divergences"] < 0.4 * naive
