"""A real SGLang server on this machine, started as `areal-cppo serve` starts it.

Covers a multimodal request with log-probabilities against transformers, and that
nothing of the server is left afterwards. Not covered: weight updates (the tests of the
training loop have them) and GPUs' attention kernels.
"""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
import uuid
from pathlib import Path

import psutil
import pytest
import torch
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

import areal_cppo
from areal_cppo.serving.processes import end_run, processes_of_run, run_environment
from areal_cppo.triangles.task import QUESTION, make_problem

CHECKPOINT = Path(areal_cppo.__file__).parent / "triangles" / "checkpoint"
SERVE = (
    "import sys; from areal_cppo.serving.server import serve;"
    "sys.exit(serve(sys.argv[1], int(sys.argv[2])))"
)
N_PROBLEMS = 3
# Nats. Two implementations in float32, the prompt's attention in another order.
TOLERANCE = 2e-3

pytestmark = [
    pytest.mark.sglang,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHECKPOINT / "config.json").is_file(),
        reason=f"no tiny model in {CHECKPOINT}",
    ),
]


@pytest.fixture(scope="module")
def server():
    """Address of a running server; ends it, and expects that nothing is left."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run_id = f"test-{uuid.uuid4()}"
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(CHECKPOINT), str(port)],
        env={**os.environ, **run_environment(run_id)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert "starting SGLang" in process.stdout.readline()
        assert f"ready at http://127.0.0.1:{port} " in process.stdout.readline()
        names = {" ".join(p.cmdline()) for p in processes_of_run(run_id)}
        assert any("sglang::scheduler" in name for name in names), names
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert processes_of_run(run_id) == []
        assert not psutil.pid_exists(process.pid)
    finally:
        end_run(run_id, grace_seconds=0)


def post(address: str, payload: dict) -> dict:
    request = urllib.request.Request(
        f"{address}/generate",
        json.dumps(payload).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def position_ids(ids: torch.Tensor, image_token_id: int, side: int) -> torch.Tensor:
    """Qwen2.5-VL's positions for one square image of `side` x `side` tokens: [3, 1, T].

    Written out, because `get_rope_index` of transformers 5.3.0 to 5.5.3 multiplies the
    temporal position of a still image by `tokens_per_second` (its issue 45325), which
    moves the log-probabilities by up to half a nat. SGLang does not.
    """
    first = ids.tolist().index(image_token_id)
    n_image, n_after = side * side, len(ids) - first - side * side
    grid = torch.arange(n_image)
    image = first + torch.stack([torch.zeros_like(grid), grid // side, grid % side])
    before = torch.arange(first).expand(3, -1)
    after = (first + side + torch.arange(n_after)).expand(3, -1)
    return torch.cat([before, image, after], dim=1)[:, None]


def as_base64(image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_sampled_logprobs_are_those_of_transformers(server):
    processor = AutoProcessor.from_pretrained(CHECKPOINT)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        CHECKPOINT, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    question = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": question}],
        tokenize=False,
        add_generation_prompt=True,
    )
    vision_ids = {model.config.image_token_id, model.config.video_token_id}
    compared = 0
    for index in range(N_PROBLEMS):
        image = make_problem(seed=0, index=index, split="held_out").image
        inputs = processor(images=[image], text=[text], return_tensors="pt")
        prompt = inputs["input_ids"]
        answer = post(
            server,
            {
                "input_ids": prompt[0].tolist(),
                "image_data": [as_base64(image)],
                "sampling_params": {"temperature": 1.0, "max_new_tokens": 40},
                "return_logprob": True,
            },
        )
        sampled = answer["meta_info"]["output_token_logprobs"]
        assert [token for _, token, _ in sampled] == answer["output_ids"]
        assert not vision_ids & set(answer["output_ids"]), "choose another problem"

        response = torch.tensor([answer["output_ids"]])
        inputs["input_ids"] = torch.cat([prompt, response], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["mm_token_type_ids"] = (
            inputs["input_ids"] == model.config.image_token_id
        ).int()
        inputs["position_ids"] = position_ids(
            inputs["input_ids"][0], model.config.image_token_id, side=3
        )
        with torch.no_grad():
            logits = model(**inputs).logits[:, prompt.shape[1] - 1 : -1]
        logprobs = logits.log_softmax(-1).gather(2, response[..., None])[0, :, 0]
        served = torch.tensor([logprob for logprob, _, _ in sampled])
        torch.testing.assert_close(served, logprobs, atol=TOLERANCE, rtol=0)
        compared += served.numel()
    assert compared >= N_PROBLEMS
