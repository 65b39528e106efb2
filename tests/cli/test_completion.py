"""The script that `areal-cppo completion bash` prints, in a real bash."""

from __future__ import annotations

import shlex
import shutil
import subprocess

import pytest

from areal_cppo.cli.main import main

pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")

_ASK = """
source "$0"
function=$(complete -p areal-cppo | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
$function
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    file = tmp_path_factory.mktemp("completion") / "areal-cppo.bash"
    with file.open("w") as out, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", out)
        assert main(["completion", "bash"]) == 0
    return file


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("areal-cppo tra", {"train"}),
        ("areal-cppo train --dry", {"--dry-run"}),
        ("areal-cppo bench tra", {"train-step"}),
        ("areal-cppo train actor.cpl.tau", {"actor.cpl.tau="}),
        ("areal-cppo train --config mine.yaml actor.cpl.tau", {"actor.cpl.tau="}),
        ("areal-cppo train --config mi", {"mine.yaml"}),
        ("areal-cppo report runs/tri", {"runs/triangles"}),
        ("areal-cppo completion z", {"zsh"}),
    ],
)
def test_bash_completes(script, tmp_path, line, offered):
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "runs" / "triangles").mkdir(parents=True)
    words = shlex.split(line)
    found = subprocess.run(
        ["bash", "-c", _ASK, script, *words],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert set(found.stdout.split()) == offered, found.stderr
