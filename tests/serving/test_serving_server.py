"""The server by itself: mistakes refused in one line, the command, and its end.

Not covered here: SGLang itself (test_serving_sglang.py).
"""

import signal
import socket
import subprocess
import sys
import textwrap

import pytest

from areal_cppo.errors import RunError, UserError
from areal_cppo.patches.version import installed
from areal_cppo.serving import server


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def assert_one_line(error: pytest.ExceptionInfo, *parts: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_missing_folder_is_refused(tmp_path, free_port):
    with pytest.raises(UserError) as error:
        server.serve(str(tmp_path / "nowhere"), free_port)
    assert_one_line(error, "--model: expected", "found nothing", "nowhere", "give")


def test_a_folder_without_config_is_refused(tmp_path, free_port):
    with pytest.raises(UserError) as error:
        server.serve(str(tmp_path), free_port)
    assert_one_line(error, "expected config.json", "found none", "give")


def test_a_port_in_use_is_refused(model):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError) as error:
            server.serve(str(model), port)
    assert_one_line(error, f"127.0.0.1:{port}", "expected a free port", "choose")


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_out_of_range_is_refused(model, port):
    with pytest.raises(UserError, match=f"expected 1 to 65535, found {port}"):
        server.check_port("127.0.0.1", port)


def flags_of(command: list[str]) -> dict[str, str]:
    """Flags with the value that follows them, if one does."""
    pairs = zip(command, command[1:] + ["--"])
    return {
        flag: "" if value.startswith("--") else value
        for flag, value in pairs
        if flag.startswith("--")
    }


def test_command_is_areals_own_launcher(model, monkeypatch):
    monkeypatch.setattr(server, "needs_shim", lambda: True)
    command = server.server_command(model, 1234)
    assert command[:3] == [sys.executable, "-m", installed().launcher]
    flags = flags_of(command)
    assert flags["--model-path"] == str(model)
    assert flags["--port"] == "1234"
    assert flags["--device"] == "cpu"
    assert flags["--attention-backend"] == "torch_native"
    assert "--skip-tokenizer-init" in flags
    assert "--sleep-on-idle" in flags
    assert "--context-length" not in flags


def test_command_has_no_cpu_settings_where_a_gpu_is(model, monkeypatch):
    monkeypatch.setattr(server, "needs_shim", lambda: False)
    flags = flags_of(server.server_command(model, 1234, tensor_parallel=2))
    assert "--device" not in flags
    assert "--sleep-on-idle" not in flags
    assert flags["--attention-backend"] == "fa3"
    assert flags["--tp-size"] == "2"


def test_settings_of_the_caller_come_first(model):
    command = server.server_command(model, 1, settings={"max_running_requests": 7})
    assert flags_of(command)["--max-running-requests"] == "7"


FAKE_SERVER = """
    import http.server, subprocess, sys

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    print("child", child.pid, flush=True)
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

# Serves with a command that is not SGLang: the arguments are the program, the model
# folder, the port and the log.
DRIVER = """
    import sys
    from areal_cppo.errors import RunError
    from areal_cppo.serving import server
    program, model, port, log = sys.argv[1:]
    server.server_command = lambda *a, **k: [sys.executable, program, port]
    try:
        sys.exit(server.serve(model, int(port), log_path=log))
    except RunError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
"""


def start_driver(tmp_path, model, port, program: str) -> subprocess.Popen:
    program_path = tmp_path / "program.py"
    program_path.write_text(textwrap.dedent(program))
    log = tmp_path / "server.log"
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DRIVER)]
        + [str(program_path), str(model), str(port), str(log)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def child_of_fake_server(tmp_path) -> int:
    return int((tmp_path / "server.log").read_text().split()[1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_and_its_children(
    tmp_path, model, free_port, number, gone
):
    driver = start_driver(tmp_path, model, free_port, FAKE_SERVER)
    assert "starting SGLang" in driver.stdout.readline()
    assert f"ready at http://127.0.0.1:{free_port}" in driver.stdout.readline()
    driver.send_signal(number)
    output, errors = driver.communicate(timeout=30)
    assert driver.returncode == 0, errors
    assert output.strip() == "stopping"
    assert gone(child_of_fake_server(tmp_path))


def test_a_server_that_dies_is_reported_with_its_last_words(tmp_path, model, free_port):
    program = "print('last words'); raise SystemExit(3)"
    driver = start_driver(tmp_path, model, free_port, program)
    _, errors = driver.communicate(timeout=30)
    assert driver.returncode == 1
    assert "ended with exit code 3" in errors.splitlines()[0]
    assert errors.splitlines()[-1].strip() == "last words"
    assert "Traceback" not in errors


def test_a_server_that_does_not_answer_is_given_up(
    tmp_path, model, free_port, monkeypatch
):
    sleeper = [sys.executable, "-c", "import time; time.sleep(120)"]
    monkeypatch.setattr(server, "server_command", lambda *a, **k: sleeper)
    log = tmp_path / "log"
    with server.GenerationServer(model, free_port, log_path=log) as started:
        with pytest.raises(RunError, match="did not answer"):
            started.wait_until_ready(timeout_seconds=0.5)
    assert started.process.poll() is not None


def test_extra_settings_reach_the_command_line_and_are_checked():
    from areal_cppo.config.engines import GenerationServerConfig

    with pytest.raises(ValueError, match="expected an integer >= 1 or null, found 0"):
        GenerationServerConfig(max_total_tokens=0)
    plain = GenerationServerConfig.build_args(GenerationServerConfig(), 1, 0)
    command = GenerationServerConfig.build_cmd_from_args(plain)
    for flag in ("--device", "--grammar-backend", "--max-total-tokens"):
        assert flag not in command


def test_servers_have_no_memory_of_images(model, free_port, monkeypatch):
    """Whoever starts them: it would outlive the weights that it was made with. What it
    does is tested by tests/conformance (new weights of the vision tower)."""
    from areal_cppo.rollout.servers.process import launcher
    from areal_cppo.rollout.servers.weights import Weights
    from areal_cppo.serving.launch import MODULE, TOKEN_VARIABLE

    started = []
    monkeypatch.delenv("SGLANG_VLM_CACHE_SIZE_MB", raising=False)

    def record(command, env, **settings):
        started.append((command, env))

    monkeypatch.setattr(server.subprocess, "Popen", record)
    server.GenerationServer(model, free_port)
    launcher({"model_path": str(model)}, "the token")(Weights(0, str(model)))
    assert [env["SGLANG_VLM_CACHE_SIZE_MB"] for _, env in started] == ["0", "0"]
    command, environment = started[1]
    assert MODULE in command and environment[TOKEN_VARIABLE] == "the token"
    assert "the token" not in " ".join(command)  # which every user can read
