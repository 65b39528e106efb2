"""A generation server for `bench rollout` that can be paused. Not a test itself."""

from __future__ import annotations

import threading
import time

from tests.scripted_server import Answer, Request, ScriptedServer, answer

TOKEN = 30  # an ordinary one of the triangle task's vocabulary


class PausableServer(ScriptedServer):
    """A pause aborts the requests under way, which then hold half of their tokens.

    Parameters
    ----------
    seconds
        That each request takes.
    model
        Folder that it says it serves.
    metrics
        Whether it tells when a prompt's pass had ended, a tenth into the request.
    loads
        Whether it takes new weights.
    status
        Of its answers to `/generate`.

    Attributes
    ----------
    address : str
        Begins with `http://`.
    paths : list[str]
        Of what else was posted, in order.
    tokens : set[str]
        What requests had as authorization.
    """

    def __init__(
        self,
        seconds: float = 0.05,
        model: str = "",
        metrics: bool = True,
        loads: bool = True,
        status: int = 200,
    ):
        super().__init__(self._generate_for_a_while, self._obey)
        self.address = self.url
        self.aborted = threading.Event()
        self._takes, self._model, self._metrics = seconds, model, metrics
        self._loads, self._status = loads, status

    @property
    def paths(self) -> list[str]:
        return [call.path for call in self.calls if call.method == "POST"]

    @property
    def tokens(self) -> set[str]:
        sent = [call for call in self.calls if call.path != "/health"]
        return {r.headers.get("Authorization", "") for r in [*sent, *self.requests]}

    def _generate_for_a_while(self, request: Request) -> Answer:
        received = time.time()
        cut = self.aborted.wait(self._takes)
        wanted = request["sampling_params"]["max_new_tokens"]
        times = {
            "request_received_ts": received,
            "prefill_finished_time": received + self._takes / 10,
        }
        return self._status, answer(
            [TOKEN] * (wanted // 2 if cut else wanted),
            "abort" if cut else "length",
            **(times if self._metrics else {}),
        )

    def _obey(self, request: Request) -> Answer:
        if request.method == "GET":
            return 200, {"model_path": self._model}
        if request.path == "/pause_generation":
            self.aborted.set()
        elif request.path == "/continue_generation":
            self.aborted.clear()
        success = self._loads or request.path != "/update_weights_from_disk"
        return 200, {"success": success, "message": "no such weights"}
