"""The controller with generation whose responses are a function of what is asked.

`python -m deterministic ...` is the controller; its workers import the engine from
here. A response depends on the prompt, its image, its number in the group, and the
bytes of the weights: whoever asks for it again gets the same. Everything else is real.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections import Counter
from pathlib import Path

from areal_cppo.serving.cpu import enable_in_this_process

enable_in_this_process()

from areal.api import LocalInfServerInfo, ModelResponse  # noqa: E402

from areal_cppo.rollout.controller import CPPORolloutEngine  # noqa: E402
from areal_cppo.rollout.engine import CPPOInfEngine  # noqa: E402
from areal_cppo.rollout.requests import CPPOBackend  # noqa: E402
from areal_cppo.rollout.servers.weights import in_thread, wait_for_files  # noqa: E402

ADDRESS = "127.0.0.1:1"
TOKENS = range(6, 29)  # the triangle vocabulary without its special tokens
END = 1


class DeterministicClient(CPPOInfEngine):
    """Makes responses itself instead of asking a server."""

    def launch_server(self, server_args):
        self.weights = digest(Path(server_args["model_path"]))
        host, port = ADDRESS.split(":")
        return LocalInfServerInfo(host=host, port=int(port), process=None)

    def initialize(self, engine_id=None, addr=None, *arguments, **settings):
        super().initialize(engine_id, addr or [ADDRESS], *arguments, **settings)

    def _wait_for_server(self, address, process=None):
        pass

    def server_status(self, states):
        return {
            "server": ADDRESS,
            "state": "up",
            "can_rejoin": True,
            "restarts": 0,
            "reason": "",
            "events": [],
        }

    def _control(self, *arguments):
        pass

    def update_weights_from_disk(self, meta):
        before = self.get_version()

        def update():
            config = self.config
            wait_for_files(config.experiment_name, config.trial_name, before, 60.0)
            self.weights = digest(Path(meta.path))
            self.asked = Counter()

        return in_thread(update)

    asked: Counter[str] = Counter()

    async def agenerate(self, req):
        version = self.get_version()
        prompt = hashlib.sha256(
            f"{req.input_ids} {req.image_data} {self.weights}".encode()
        ).hexdigest()
        self.asked[prompt] += 1  # requests of a group come in its order
        draw = random.Random(f"{prompt} {self.asked[prompt]}")
        tokens = [draw.choice(TOKENS) for _ in range(draw.randint(3, 12))] + [END]
        return ModelResponse(
            input_tokens=list(req.input_ids),
            input_images=req.image_data,
            output_tokens=tokens,
            output_logprobs=[-draw.random() * 3 for _ in tokens],
            output_versions=[version] * len(tokens),
            stop_reason="stop",
            tokenizer=req.tokenizer,
            processor=req.processor,
        )


class DeterministicEngine(CPPORolloutEngine):
    """What the rollout workers import."""

    def __init__(self, config):
        self.config = config
        self._engine = DeterministicClient(config, CPPOBackend())


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def main() -> None:
    from areal_cppo.run import controller, trainer
    from areal_cppo.run import experiment as run
    from tests.run import deterministic  # not as __main__: workers import it

    trainer.CPPORolloutEngine = deterministic.DeterministicEngine
    load_task = run.load_task

    def with_reward(*args, **kwargs):
        task = load_task(*args, **kwargs)
        reward = {"reward_fn": "tests.run.random_reward.reward_fn"}
        task.workflow_kwargs = {**task.workflow_kwargs, **reward}
        return task

    run.load_task = with_reward
    controller.main(sys.argv[1:])


if __name__ == "__main__":
    main()
