"""The generation server by itself: the same SGLang server that training starts."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from areal_cppo.config.keys import check_model
from areal_cppo.errors import RunError, UserError
from areal_cppo.serving.cpu import (
    cpu_environment,
    interpreter_environment,
    needs_shim,
)
from areal_cppo.serving.listen import LISTEN_VARIABLE, LOOPBACK
from areal_cppo.serving.processes import end_process_tree

_POLL_SECONDS = 0.3
_LOG_LINES_SHOWN = 15
_PR_SET_PDEATHSIG = 1  # Linux: the signal to get when the parent dies


def check_port(host: str, port: int) -> None:
    """A UserError unless `port` of `host` can be listened on."""
    if not 1 <= port <= 65535:
        raise UserError(
            f"--port: expected 1 to 65535, found {port}; choose one such as 30000"
        )
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"--port: expected a free port, found {host}:{port} not usable "
                f"({error.strerror}); choose another with --port"
            ) from None


def server_command(
    model_dir: str | Path,
    port: int,
    host: str = "127.0.0.1",
    tensor_parallel: int = 1,
    settings: Mapping[str, object] | None = None,
) -> list[str]:
    """The command that starts SGLang, as training does, but for whoever asks.

    Parameters
    ----------
    model_dir
        Folder with config.json and weights.
    port, host
        Where it listens.
    tensor_parallel
        GPUs over which the model is split.
    settings
        Fields of `GenerationServerConfig`; they go before the CPU settings used where
        there is no GPU.
    """
    from areal_cppo.config.engines import CPU_SETTINGS, GenerationServerConfig
    from areal_cppo.serving.launch import ungated

    fields: dict[str, object] = {
        "model_path": str(model_dir),
        # The prompt arrives tokenised, its image tokens expanded: SGLang's tokenizer
        # would expand them again and answer 500.
        "skip_tokenizer_init": True,
        "enable_multimodal": True,
        # AReaL's default is longer than a small model allows: None asks the model.
        "context_length": None,
    }
    if needs_shim():
        fields |= CPU_SETTINGS
    config = GenerationServerConfig(**(fields | dict(settings or {})))
    arguments = config.build_args(
        sglang_config=config,
        tp_size=tensor_parallel,
        base_gpu_id=0,
        host=host,
        port=port,
    )
    command = config.build_cmd_from_args(arguments)
    return [sys.executable, *ungated(command)[1:]]


class GenerationServer:
    """A running SGLang server with its own process group and log.

    Use it as a context manager, or call `stop` in a `finally`: it ends the scheduler
    and the detokenizer too, which outlive a server that is merely killed. Make it in
    a thread that lives as long as it should: the server dies with that thread.
    """

    def __init__(
        self,
        model_dir: str | Path,
        port: int,
        host: str = "127.0.0.1",
        log_path: str | Path | None = None,
        tensor_parallel: int = 1,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        model = check_model(model_dir)
        check_port(host, port)
        self.address = f"http://{host}:{port}"
        self.log_path = Path(log_path) if log_path else _temporary_log(port)
        environment = {LISTEN_VARIABLE: LOOPBACK} | dict(os.environ)  # but for HTTP
        environment |= interpreter_environment(environment)
        environment |= cpu_environment(environment)
        command = server_command(model, port, host, tensor_parallel, settings)
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    def __enter__(self) -> "GenerationServer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def healthy(self) -> bool:
        """Whether GET /health answers 200."""
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def wait_until_ready(
        self, timeout_seconds: float = 600.0, stop: threading.Event | None = None
    ) -> float | None:
        """Seconds waited until /health answered; None if `stop` was set first.

        Raises
        ------
        RunError
            The server died, or did not answer in time.
        """
        started = time.monotonic()
        stop = stop or threading.Event()
        while not stop.is_set():
            waited = time.monotonic() - started
            if self.process.poll() is not None:
                raise RunError(self.obituary())
            if self.healthy():
                return waited
            if waited > timeout_seconds:
                raise RunError(
                    f"the generation server did not answer {self.address}/health in "
                    f"{timeout_seconds:.0f} s; see {self.log_path}"
                )
            stop.wait(_POLL_SECONDS)
        return None

    def obituary(self) -> str:
        """One line with the exit code, then the last lines of the log."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        shown = "\n".join(f"  {line}" for line in lines[-_LOG_LINES_SHOWN:])
        return (
            f"the generation server ended with exit code {self.process.poll()}; "
            f"the last lines of {self.log_path}:\n{shown}"
        )

    def stop(self, grace_seconds: float = 5.0) -> None:
        """End the server and all that it started; no harm if it is gone already."""
        end_process_tree(self.process.pid, grace_seconds)
        self.process.wait()


def serve(
    model_dir: str | Path,
    port: int,
    host: str = "127.0.0.1",
    tensor_parallel: int = 1,
    log_path: str | Path | None = None,
    settings: Mapping[str, object] | None = None,
) -> int:
    """Serve a model until Ctrl-C or SIGTERM, and return the exit status, 0.

    Raises
    ------
    UserError
        No such model, or the port is taken.
    RunError
        The server died by itself; with its exit code and last lines.
    """
    stop = threading.Event()
    previous = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        with GenerationServer(
            model_dir, port, host, log_path, tensor_parallel, settings
        ) as server:
            return _serve_until(stop, server)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _serve_until(stop: threading.Event, server: GenerationServer) -> int:
    print(
        f"starting SGLang ({'CPU' if needs_shim() else 'GPU'}), log: {server.log_path}",
        flush=True,
    )
    seconds = server.wait_until_ready(stop=stop)
    if seconds is not None:
        print(
            f"ready at {server.address} after {seconds:.0f} s; Ctrl-C ends it",
            flush=True,
        )
    while not stop.wait(_POLL_SECONDS):
        if server.process.poll() is not None:
            raise RunError(server.obituary())
    print("stopping", flush=True)
    return 0


def _temporary_log(port: int) -> Path:
    handle, name = tempfile.mkstemp(prefix=f"areal-cppo-serve-{port}-", suffix=".log")
    os.close(handle)
    return Path(name)


def _die_with_parent() -> None:
    """Runs in the new process: SIGKILL of the parent must not leave a server behind.

    SGLang's own processes ask for the same of the server.
    """
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
