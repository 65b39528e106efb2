"""Speaks to a generation server as AReaL does, and to transformers for comparison.

Not a test itself. Requests are built and answers read by AReaL's own `SGLangBackend`,
so that what is tested is what AReaL sends. Letters: `P` prompt tokens, `T` response
tokens.
"""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from areal.api import ModelRequest, ParamSpec, WeightUpdateMeta
from areal.api.cli_args import GenerationHyperparameters
from areal.api.io_struct import HttpRequest
from areal.engine.core.distributed import init_custom_process_group
from areal.engine.sglang_remote import SGLangBackend
from areal.utils.image import image2base64
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from areal_cppo.patches.transformers import correct_image_positions
from areal_cppo.tasks.problems import TRIANGLES
from areal_cppo.tasks.responses import QUESTION

BACKEND = SGLangBackend()
GROUP = "conformance"  # over which weights are sent
PARTS = 2  # of an update over the wire
VISION_TOKENS = ("<|image_pad|>", "<|video_pad|>")


@dataclass(frozen=True)
class Tolerance:
    """How far the server's log-probs may be from those of transformers, in nats."""

    largest: float
    mean: float


# Two implementations with other kernels and another order of sums. float32 was measured
# on the CPU (9e-4 at most); the others are set with room, and only a wrong position,
# mask or image misses them: those are off by tenths on average.
TOLERANCES = {
    torch.float32: Tolerance(largest=2e-3, mean=5e-4),
    torch.float16: Tolerance(largest=0.1, mean=0.01),
    torch.bfloat16: Tolerance(largest=0.5, mean=0.05),
}


@dataclass(frozen=True)
class Prompt:
    """A prompt as the rollout workflow makes it."""

    ids: list[int]  # [P], image placeholders expanded
    images: list[str]  # base64 PNG files
    inputs: dict[str, torch.Tensor]  # what the processor returned, for transformers


@dataclass(frozen=True)
class Reply:
    """An answer of `/generate`, as AReaL reads it."""

    tokens: list[int]  # [T]
    logprobs: list[float]  # [T], nats
    reason: str  # stop, length or abort
    raw: dict[str, Any]


class Server:
    """A generation server and the model that it serves.

    Parameters
    ----------
    address
        `http://host:port`.
    model
        The model's folder, readable here and by the server.
    """

    def __init__(self, address: str, model: Path):
        self.address = address.rstrip("/")
        self.model = model
        self.processor = AutoProcessor.from_pretrained(model)
        self.tokenizer = self.processor.tokenizer

    @cached_property
    def info(self) -> dict[str, Any]:
        """The server's own settings."""
        status, answer = self.request("/get_server_info", method="GET")
        assert status == 200, answer
        return answer

    @property
    def dtype(self) -> torch.dtype:
        """In which the server computes."""
        name = self.info["dtype"]
        if name in ("auto", "half"):
            return torch.float16 if name == "half" else self.reference.dtype
        return getattr(torch, {"float": "float32"}.get(name, name))

    @property
    def tolerance(self) -> Tolerance:
        return TOLERANCES[self.dtype]

    @cached_property
    def reference(self):
        """The same weights in plain transformers."""
        return self.load(self.model)

    def load(self, folder: Path):
        """A model folder in plain transformers, on a GPU where there is one."""
        correct_image_positions()
        name = self.info["dtype"]
        dtype = "auto" if name == "auto" else self.dtype
        model = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa"
        )
        return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")

    def request(
        self, path: str, body: Any = None, method: str = "POST", timeout: float = 300.0
    ) -> tuple[int, Any]:
        """HTTP status and answer (parsed where it is JSON); `body` bytes go as is."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(
            self.address + path,
            data if method == "POST" else None,
            {"Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                status, content = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
        try:
            return status, json.loads(content)
        except ValueError:
            return status, content.decode(errors="replace")

    def send(self, request: HttpRequest, timeout: float = 300.0) -> tuple[int, Any]:
        """Send what AReaL's backend built."""
        return self.request(
            request.endpoint, request.payload, request.method, timeout=timeout
        )

    def healthy(self) -> bool:
        """Whether `/health` answers 200.

        Asked twice: SGLang 0.5.10.post1 loses a check that arrives in the moment in
        which a batch ends, and answers 503 after 20 s, though nothing is wrong.
        """
        request = BACKEND.get_health_check_request()
        return any(self.send(request, timeout=60)[0] == 200 for _ in range(2))

    def prompt(self, images: list[Image.Image], text: str = QUESTION) -> Prompt:
        """A question about pictures, through chat template and processor."""
        content = [{"type": "image"} for _ in images] + [{"type": "text", "text": text}]
        templated = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=False,
            add_generation_prompt=True,
        )
        inputs = self.processor(
            images=images or None, text=[templated], return_tensors="pt"
        )
        return Prompt(
            inputs["input_ids"][0].tolist(), image2base64(images), dict(inputs)
        )

    def triangle(self, index: int) -> Prompt:
        """The triangle task's held-out problem of that number: one 84 x 84 picture."""
        return self.prompt([TRIANGLES.make_problem(0, index, "held_out").image])

    def payload(self, prompt: Prompt, response: list[int] = [], **sampling) -> dict:
        """AReaL's request for a prompt and the response so far."""
        settings = GenerationHyperparameters(**({"max_new_tokens": 32} | sampling))
        request = ModelRequest(
            input_ids=prompt.ids + response,
            image_data=prompt.images,
            gconfig=settings.new_with_stop_and_pad_token_ids(self.tokenizer),
            tokenizer=self.tokenizer,
        )
        return BACKEND.build_generation_request(request, False, 0).payload

    def generate(
        self,
        prompt: Prompt,
        response: list[int] = [],
        timeout: float = 300.0,
        **sampling,
    ) -> Reply:
        """Ask for one response; `sampling` are fields of GenerationHyperparameters."""
        status, answer = self.request(
            "/generate", self.payload(prompt, response, **sampling), timeout=timeout
        )
        assert status == 200, answer
        return read(answer)

    def generate_all(self, prompts: list[Prompt], **sampling) -> list[Reply]:
        """Ask for all at once."""
        with ThreadPoolExecutor(len(prompts)) as pool:
            return list(
                pool.map(lambda prompt: self.generate(prompt, **sampling), prompts)
            )

    def load_weights(self, folder: Path) -> tuple[int, Any]:
        """The weight update that AReaL sends in disk mode."""
        (request,) = BACKEND.build_disk_weight_update_requests(
            WeightUpdateMeta(type="disk", path=str(folder))
        ).requests
        return self.send(request)

    def send_weights(self, folder: Path) -> None:
        """The weight update that AReaL sends in xccl mode, in parts, over gloo."""
        weights = list(load_file(folder / "model.safetensors").items())
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        group = {"group_name": GROUP, "world_size": 1 + self.info["tp_size"]}
        where = {"master_address": "127.0.0.1", "master_port": port}
        joining = {"rank_offset": 1, "backend": "gloo", **where, **group}
        with ThreadPoolExecutor(1) as pool:
            joined = pool.submit(self.request, "/init_weights_update_group", joining)
            mine = init_custom_process_group(
                "gloo", f"tcp://127.0.0.1:{port}", rank=0, **group
            )
            assert joined.result()[0] == 200, joined.result()
            meta = WeightUpdateMeta(type="xccl", nccl_group_name=GROUP)
            for start in range(PARTS):
                part = weights[start::PARTS]
                names = [
                    ParamSpec(name, tuple(tensor.shape), str(tensor.dtype)[6:])
                    for name, tensor in part
                ]
                (request,) = BACKEND.build_distributed_weight_update_requests(
                    meta, names
                ).requests
                received = pool.submit(self.send, request)
                for _, tensor in part:
                    torch.distributed.broadcast(tensor, 0, group=mine)
                status, answer = received.result()
                assert status == 200 and answer["success"] is True, answer
            left = pool.submit(
                self.request, "/destroy_weights_update_group", {"group_name": GROUP}
            )
            torch.distributed.destroy_process_group(mine)
            assert left.result()[0] == 200, left.result()

    def update(self, way: str, folder: Path) -> None:
        """Have the server hold a folder's weights, by `disk` or over the `wire`."""
        if way == "wire":
            self.send_weights(folder)
            return
        status, answer = self.load_weights(folder)
        assert status == 200 and answer["success"] is True, answer

    def vision_ids(self) -> set[int]:
        """Tokens that no response may hold: whoever reads it looks for an image."""
        vocabulary = self.tokenizer.get_vocab()
        return {vocabulary[token] for token in VISION_TOKENS if token in vocabulary}

    def off(
        self,
        prompt: Prompt,
        reply: Reply,
        before: list[int] = [],
        model=None,
        temperature: float = 1.0,
    ) -> torch.Tensor:
        """Distances of a reply's log-probs from transformers': float32 `[T]`, nats.

        `before` is the part of the response that was in the request.
        """
        response = before + reply.tokens
        logits = reference_logits(model or self.reference, prompt, response)
        chosen = torch.tensor(response)[:, None]
        logprobs = (logits / temperature).log_softmax(-1).gather(1, chosen)[:, 0]
        return (torch.tensor(reply.logprobs) - logprobs[len(before) :]).abs()

    def check_logprobs(self, prompt: Prompt, reply: Reply, **how) -> None:
        """Expect a reply's log-probs to be transformers'; `how` goes to `off`."""
        off = self.off(prompt, reply, **how)
        assert off.max() <= self.tolerance.largest, off
        assert off.mean() <= self.tolerance.mean, off

    def check_greedy(self, prompt: Prompt, tokens: list[int]) -> None:
        """Expect each token to have transformers' largest logit, or as good a one."""
        logits = reference_logits(self.reference, prompt, tokens)
        chosen = logits.gather(1, torch.tensor(tokens)[:, None])[:, 0]
        behind = logits.max(-1).values - chosen
        # Both logits may be off, each by as much as a log-prob.
        assert behind.max() <= 2 * self.tolerance.largest, behind


def read(answer: dict[str, Any]) -> Reply:
    """An answer of `/generate`, by AReaL's parser."""
    result = BACKEND.parse_generation_response(answer)
    return Reply(
        result.output_tokens, result.output_logprobs, result.stop_reason, answer
    )


def reference_logits(model, prompt: Prompt, response: list[int]) -> torch.Tensor:
    """Logits of each response token in plain transformers: float32 `[T, V]`, CPU."""
    ids = torch.tensor([prompt.ids + response])
    added = torch.zeros(1, len(response), dtype=torch.long)
    inputs = prompt.inputs | {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": torch.cat([prompt.inputs["mm_token_type_ids"], added], 1),
    }
    with torch.no_grad():
        logits = model(**{k: v.to(model.device) for k, v in inputs.items()}).logits
    return logits[0, len(prompt.ids) - 1 : -1].float().cpu()
