"""The command's scripts: shellcheck, what they ask for, the ready ones, mistakes.

Whether Slurm takes and runs them is for test_slurm_cluster.py and test_slurm_runs.py.
What they do in a bash before 4.4 (RHEL 7 has 4.2) is seen in this machine's, which is
made to end where that one would, and in the one that AREAL_CPPO_OLD_BASH names.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from areal_cppo.cli.main import main
from areal_cppo.cli.slurm import time_seconds

ROOT = Path(__file__).parents[2]
READY = sorted((ROOT / "examples/cppo/slurm").glob("*.sh"))
CPU = ["--config", "configs/triangles.yaml"]
GPU = ["--config", "configs/qwen2_5_vl-7b_virl39k.yaml"]
EXAMPLES = sorted((ROOT / "examples/cppo").glob("*.sh"))
PARTS = sorted((ROOT / "areal_cppo/cluster/parts").glob("*.sh"))
CONTAINERS = {
    "none": [],
    "apptainer": ["--container=apptainer", "--image", "an image.sif"],
    "pyxis": ["--container=pyxis", "--image", "nvcr.io#a/b:1", "--mounts=/data:/data"],
}


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def written(capsys, *arguments: str) -> str:
    assert main(["slurm", *arguments]) == 0
    return capsys.readouterr().out


def variants():
    sizes = {
        "cpu-1": [*CPU, "--nodes=1"],
        "cpu-2": [*CPU, "--nodes=2", "--generation-nodes=1", "seed=3"],
        "gpu-1": [*GPU, "--nodes=1", "run_dir=here"],
        "gpu-2": [
            *GPU,
            "--nodes=2",
            "actor.backend=fsdp:d8",
            "rollout.backend=sglang:d8",
        ],
    }
    options = {
        "plain": [],
        "full": [
            *("--partition=a,b", "--account=c", "--qos=d", "--job-name=e.f"),
            *("--time=1-12", "--notice=60", "--requeues=3", "--cpus-per-task=4"),
            *("--runs=../my-runs", "--setup", "module load cuda", "--setup", "cd ."),
        ],
    }
    for size, container, option in product(sizes, CONTAINERS, options):
        words = [*options[option], *CONTAINERS[container], *sizes[size]]
        yield pytest.param(words, id=f"{size}-{container}-{option}")


@pytest.mark.parametrize("arguments", list(variants()))
def test_shellcheck_finds_nothing(arguments, capsys):
    script = written(capsys, *arguments)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    found = subprocess.run(
        [shellcheck, "--shell=bash", "-"], input=script, text=True, capture_output=True
    )
    assert found.returncode == 0, found.stdout
    assert all(len(line) <= 88 for line in script.splitlines() if line[:1] != "#")


def test_header_and_settings(capsys):
    two = ["actor.backend=fsdp:d8", "rollout.backend=sglang:d8"]
    script = written(capsys, *GPU, "--nodes=2", "--time=8:00:00", "--qos=high", *two)
    asked = re.findall(r"^#SBATCH (\S+)$", script, re.MULTILINE)
    assert set(asked) >= {
        *("--nodes=2", "--ntasks-per-node=1", "--gres=gpu:8", "--cpus-per-task=64"),
        *("--mem=0", "--exclusive", "--time=8:00:00", "--requeue", "--export=ALL"),
        *("--open-mode=append", "--signal=B:USR1@300", "--qos=high"),
        "--output=logs/%x-%j.out",
    }
    assert "# trainer: node 1, 8 process(es), 8 GPU(s)\n" in script
    assert "# generation: node 2, 8 server(s), 8 GPU(s)\n" in script
    for setting in ("cluster.n_nodes=2", "recover.mode=on", *two):
        assert f"\n    {setting}\n" in script


def test_a_named_run_folder_is_kept(capsys):
    script = written(capsys, *CPU, "--nodes=1", "run_dir=here/run")
    assert "\nrun_dir=here/run\n" in script
    assert "    run_dir=" not in script


def test_what_is_not_here_is_told_of(capsys):
    """It may be on the cluster only; names on the hub are not looked for."""
    config = ROOT / "configs/qwen2_5_vl-3b_geometry3k.yaml"
    words = ["slurm", "--config", str(config), "--nodes", "1"]
    assert main([*words, "actor.path=/no/model"]) == 0
    told = capsys.readouterr().err
    assert "actor.path: nothing at /no/model here; the job will look for it" in told
    assert "train_dataset" not in told


def test_the_script_is_all_that_is_written(tmp_path, capsys, monkeypatch):
    config = str(ROOT / "configs/triangles.yaml")
    monkeypatch.chdir(tmp_path)
    target = tmp_path / "new" / "job.sh"
    words = ["--config", config, "--nodes=1", "-o", "new/job.sh", "run_dir=here"]
    assert written(capsys, *words) == ""
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert target.stat().st_mode & 0o100
    assert target.read_text().startswith("#!/bin/bash\n")


def test_another_script_is_kept(tmp_path, capsys):
    """One that was changed by hand, say; the same one is written as it was."""
    job, kept = tmp_path / "job.sh", tmp_path / "job.sh~"
    words = [*CPU, "--nodes=1", "-o", str(job)]
    written(capsys, *words)
    written(capsys, *words)
    assert not kept.exists()
    job.write_text(job.read_text() + "# mine\n")
    written(capsys, *words)
    assert kept.read_text().endswith("# mine\n")
    assert not job.read_text().endswith("# mine\n")


def test_there_are_ready_scripts_for_1_2_and_8_nodes():
    nodes = [re.search(r"--nodes=(\d+)", path.read_text())[1] for path in READY]
    assert sorted(nodes) == ["1", "2", "8"]


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_a_ready_script_is_what_its_command_writes(path, capsys):
    text = path.read_text()
    command = re.search(r"^#   areal-cppo slurm (.*)$", text, re.MULTILINE)[1]
    assert written(capsys, *shlex.split(command)) == text


@pytest.mark.parametrize(
    "arguments, said",
    (
        ([*CPU, "--nodes=0"], "--nodes: expected a number >= 1, found 0"),
        ([*CPU, "--nodes=3"], "--nodes: expected at least a worker a node, found 3"),
        ([*GPU, "--nodes=2"], "--nodes: expected 8 GPUs (trainer 4 + generation 4)"),
        ([*CPU, "--nodes=1", "--time=soon"], "--time: expected minutes"),
        ([*CPU, "--nodes=1", "--time=5"], "--notice: expected fewer seconds than"),
        ([*CPU, "--nodes=1", "--qos=a b"], "--qos: expected letters"),
        ([*CPU, "--nodes=1", "--runs=my runs"], "--runs: expected a path without"),
        ([*CPU, "--nodes=1", "--image=x"], "--image: expected with --container"),
        ([*CPU, "--nodes=1", "--container=pyxis"], "--image: expected with"),
        (
            [*CPU, "--nodes=2", "cluster.n_nodes=1"],
            "cluster.n_nodes: expected the numb",
        ),
        ([*CPU, "--nodes=1", "scheduler.type=ray"], "scheduler.type: expected alloca"),
        ([*CPU, "--nodes=1", "actor.nothing=1"], "expected a key of CPPOActorConfig"),
        (["--config=none.yaml", "--nodes=1"], "config: expected a YAML file"),
        ([*CPU, "--nodes=1", "--out=/proc/x/y"], "--out: expected a file"),
        (
            [*GPU, "--nodes=1", "train_dataset.batch_size=6"],
            "train_dataset.batch_size: expected a multiple",
        ),
    ),
)
def test_mistakes_are_one_line(arguments, said, capsys):
    assert main(["slurm", *arguments]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if said in line]
    assert len(error) == 1, error
    assert error[0].startswith("areal-cppo slurm: ")


@pytest.mark.parametrize(
    "limit, seconds",
    (
        ("90", 5400),
        ("1:30", 90),
        ("2:00:30", 7230),
        ("1-0", 86400),
        ("1-12", 129600),
        ("1-2:30", 95400),
        ("2-0:00:05", 172805),
    ),
)
def test_time_limits_as_sbatch_reads_them(limit, seconds):
    assert time_seconds(limit) == seconds


def test_submit_without_sbatch_is_a_mistake(monkeypatch, tmp_path, capsys):
    config = str(ROOT / "configs/triangles.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["slurm", "--config", config, "--nodes=1", "--submit"]) == 2
    assert "--submit: expected sbatch on PATH" in capsys.readouterr().err


def test_apptainer_is_before_the_controller_and_before_each_step(tmp_path):
    parts = ROOT / "areal_cppo/cluster/parts"
    text = "".join((parts / f).read_text() for f in ("container.sh", "apptainer.sh"))
    show = 'printf "%s\\0" "${controller[@]}" "$AREAL_CPPO_STEP_PREFIX"'
    settings = {"image": "an image.sif", "mounts": "/a b:/b", "gpu_option": "--nv"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{text}\n{show}"],
        cwd=tmp_path,
        env=os.environ | settings,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    *controller, prefix, _ = done.stdout.split("\0")
    assert controller[:4] == ["apptainer", "exec", "--nv", "--no-home"]
    assert controller[controller.index("--bind") + 1].startswith("/a b:/b")
    assert controller[-1] == "an image.sif"
    assert shlex.split(prefix) == controller  # as the scheduler reads it


OLD_BASH = "AREAL_CPPO_OLD_BASH"
# An empty array is an unset variable before 4.4, unless as ${name[@]+"${name[@]}"}.
AS_BEFORE_4_4 = r"""
unset BASH_ENV
set -o functrace
end_at_an_empty_array() {
    local rest=$1 array='(^|[^+"])"?\$\{([A-Za-z_]+)\[[@*]\]\}(.*)'
    while [[ $rest =~ $array ]]; do
        rest=${BASH_REMATCH[3]}
        eval "((\${#${BASH_REMATCH[2]}[@]}))" && continue
        echo "${BASH_REMATCH[2]}[@]: unbound variable" >&2
        exit 1
    done
    [[ $1 != 'train=$!' ]] || /bin/sleep 0.3 # a signal may come before
}
trap 'end_at_an_empty_array "$BASH_COMMAND"' DEBUG
"""
# What no bash 4.2 knows, or what it takes for something else.
SINCE_4_3 = re.compile(
    r"wait -[a-z]*[nfp]|\$\{[^}]*@[A-Za-z]\}|\b(local|declare|typeset) -\w*n|-v \w+\["
    r"|\b(mapfile|readarray)\b.* -d|\bEPOCH|\bSRANDOM|\binherit_errexit|\w\[-\d+\]"
)
# All the commands of a job; areal-cppo does what ENDING says.
STUB = r"""#!/bin/sh
case ${0##*/} in
apptainer | srun)
    while [ "$1" != areal-cppo ]; do shift; done
    exec "$@"
    ;;
squeue) echo RUNNING ;;
scontrol) echo "$@" >scontrol ;;
areal-cppo)
    printf '%s\n' "$@" >areal-cppo
    case $ENDING in [0-9]*) exit "$ENDING" ;; esac
    trap 'exit 143' TERM
    kill -s "$ENDING" "$PPID"
    tries=0
    until [ -e runs/*/STOP ] || [ $((tries += 1)) -gt 200 ]; do /bin/sleep 0.05; done
    exit 75
    ;;
esac
"""


@pytest.fixture(params=("emulated", "old"))
def old_bash(request, tmp_path):
    """Runs a script as a bash before 4.4 does, in a folder with the job's commands."""
    shell = "bash"
    (tmp_path / "emulation").write_text(AS_BEFORE_4_4)
    environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    if request.param == "emulated":
        environment["BASH_ENV"] = str(tmp_path / "emulation")
    elif not (shell := os.environ.get(OLD_BASH)):
        pytest.skip(f"{OLD_BASH} names no bash before 4.4")
    (tmp_path / "bin").mkdir()
    for name in "apptainer areal-cppo module scontrol sleep squeue srun".split():
        (tmp_path / "bin" / name).write_text(STUB)
        (tmp_path / "bin" / name).chmod(0o755)

    def run(script: str, *arguments: str, **more: str):
        (tmp_path / "script").write_text(script)
        return subprocess.run(
            [shell, tmp_path / "script", *arguments],
            cwd=tmp_path,
            env=os.environ | environment | more,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def run_job(old_bash, script: str, folder: Path, ending: str, restarts: int = 0):
    """Status of a job's script, whether it was queued again, its controller's words."""
    job = {
        **{"ENDING": ending, "SLURM_SUBMIT_DIR": str(folder)},
        **{"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "a job", "SLURM_CPUS_PER_TASK": "4"},
        **{"SLURM_JOB_NODELIST": "n[0-1]", "SLURMD_NODENAME": "n0"},
        "SLURM_RESTART_COUNT": str(restarts),
    }
    done = old_bash(script, **job)
    assert not done.stderr
    words = (folder / "areal-cppo").read_text().splitlines()
    return done.returncode, (folder / "scontrol").exists(), words


def test_an_empty_array_ends_an_old_bash(old_bash):
    begin = "set -u; a=(); f() { %s; }; (f x)"
    assert "unbound variable" in old_bash(begin % 'echo "${a[@]}"').stderr
    assert old_bash(begin % 'echo ${a[@]+"${a[@]}"} "$@"').stdout == "x\n"


@pytest.mark.parametrize("arguments", list(variants()))
def test_old_bash_takes_each_script(arguments, capsys, old_bash, tmp_path):
    script = written(capsys, *arguments)
    status, again, said = run_job(old_bash, script, tmp_path, "0")
    assert (status, again) == (0, False)
    assert said[:2] == ["train", "--config"]
    asked = [word for word in arguments if "=" in word and word[0] != "-"]
    assert set(said) >= {"recover.mode=on", *asked}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(
    "ending, restarts, status, again",
    (
        ("2", 0, 2, False),
        ("75", 0, 75, False),
        ("USR1", 0, 75, True),
        ("1", 9, 1, True),
        ("1", 10, 1, False),
        ("TERM", 0, 143, False),
    ),
)
def test_each_ending(
    ending, restarts, status, again, container, capsys, old_bash, tmp_path
):
    script = written(capsys, *CPU, "--nodes=1", *CONTAINERS[container])
    found = run_job(old_bash, script, tmp_path, ending, restarts)
    assert found[:2] == (status, again)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_old_bash_takes_each_example(path, old_bash):
    for arguments in ([], ["--dry-run", "a b=c"]):
        done = old_bash(path.read_text(), *arguments, PYTHON="echo")
        assert done.stdout.endswith(" ".join([".yaml", *arguments]) + "\n")
        assert not done.stderr


@pytest.mark.parametrize(
    "line",
    (
        *('wait -n "$a"', 'echo "${a[@]@Q}"', "local -n a=b", "mapfile -t -d '' a"),
        *("declare -gn a=b", "[[ -v a[1] ]]", "echo $EPOCHSECONDS", "a[-1]=b"),
    ),
)
def test_what_is_newer_is_found(line):
    assert SINCE_4_3.search(line)


@pytest.mark.parametrize(
    "path", [*EXAMPLES, *READY, *PARTS], ids=lambda path: path.stem
)
def test_nothing_newer_than_bash_4_2(path):
    assert not SINCE_4_3.search(path.read_text())
