"""What the script does with the end of a run, on a real Slurm with a stand-in run.

The stand-in for `areal-cppo` reads from a plan what to do in each attempt: a number is
its exit status, `wait` waits for the STOP file and exits with 75. Real runs are in
test_slurm_runs.py.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from areal_cppo.cli.main import main

ROOT = Path(__file__).parents[2]
STAND_IN = """#!/bin/bash
for word; do
    case $word in run_dir=*) dir=${word#run_dir=} ;; esac
done
attempt=${SLURM_RESTART_COUNT:-0}
echo "$@" >"$dir/attempt-$attempt"
next=$(sed -n "$((attempt + 1))p" PLAN)
[[ $next == wait ]] || exit "$next"
until [[ -e $dir/STOP ]]; do sleep 0.1; done
rm "$dir/STOP"
exit 75
"""
END_SECONDS = 150

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def submit(slurm_cluster, tmp_path, monkeypatch, capsys):
    """Submits a job whose attempts follow the plan; its id and folder."""
    stand_in = tmp_path / "bin" / "areal-cppo"
    stand_in.parent.mkdir()
    stand_in.write_text(STAND_IN.replace("PLAN", shlex.quote(f"{tmp_path}/plan")))
    stand_in.chmod(0o755)
    jobs = []

    def submit_job(plan: str, *options: str) -> tuple[str, Path]:
        (tmp_path / "plan").write_text("\n".join(plan.split()) + "\n")
        monkeypatch.chdir(tmp_path)
        status = main(
            [
                *("slurm", "--config", str(ROOT / "configs/triangles.yaml")),
                *("--nodes=2", "--submit", "--job-name=run", *options),
                *("--setup", f"export PATH={shlex.quote(str(stand_in.parent))}:$PATH"),
            ]
        )
        said = capsys.readouterr()
        assert status == 0, said.err
        jobs.append(said.out.strip())
        return jobs[-1], tmp_path / "runs" / f"run-{jobs[-1]}"

    yield submit_job
    for job in jobs:
        slurm_cluster.run("scancel", job)


def wait_for_attempt(cluster, folder: Path, number: int) -> None:
    started = folder / f"attempt-{number}"
    cluster.wait(started.exists, 60, f"attempt {number}")


def outcome(cluster, job: str, folder: Path) -> tuple[str, str, int, int]:
    """State, exit status, restarts and attempts of a job that has ended."""
    running = ("PENDING", "RUNNING", "SIGNALING", "COMPLETING", "CONFIGURING")
    cluster.wait(
        lambda: cluster.job(job)["JobState"] not in running, END_SECONDS, "the end"
    )
    shown = cluster.job(job)
    attempts = len(list(folder.glob("attempt-*")))
    return shown["JobState"], shown["ExitCode"], int(shown["Restarts"]), attempts


@pytest.mark.parametrize(
    "plan, options, expected, said",
    (
        ("0", (), ("COMPLETED", "0:0", 0, 1), "finished"),
        ("2", (), ("FAILED", "2:0", 0, 1), "a mistake of the configuration"),
        ("1 0", (), ("COMPLETED", "0:0", 1, 2), "failed with status 1; queued again"),
        (
            "1 1 1",
            ("--requeues=1",),
            ("FAILED", "1:0", 1, 2),
            "not queued again: 1 restarts are the limit",
        ),
        # A minute's limit, of which all is notice: USR1 comes from Slurm itself.
        (
            "wait 0",
            ("--time=2", "--notice=110"),
            ("COMPLETED", "0:0", 1, 2),
            "stopped before the time limit; queued again",
        ),
    ),
    ids=("finished", "mistake", "failed", "limit", "time"),
)
def test_end_of_an_attempt(
    submit, slurm_cluster, tmp_path, plan, options, expected, said
):
    job, folder = submit(plan, *options)
    assert outcome(slurm_cluster, job, folder) == expected
    output = (tmp_path / "logs" / f"run-{job}.out").read_text()
    assert said in output
    for attempt in range(expected[3]):
        words = (folder / f"attempt-{attempt}").read_text().split()
        assert f"run_dir=runs/run-{job}" in words
        assert {"scheduler.type=allocation", "recover.mode=on"} <= set(words)


def test_usr1_stops_and_queues_again(submit, slurm_cluster):
    job, folder = submit("wait 0")
    wait_for_attempt(slurm_cluster, folder, 0)
    slurm_cluster.run("scancel", "--signal=USR1", "--batch", job)
    assert outcome(slurm_cluster, job, folder) == ("COMPLETED", "0:0", 1, 2)


def test_a_users_stop_is_the_end(submit, slurm_cluster):
    job, folder = submit("wait 0")
    wait_for_attempt(slurm_cluster, folder, 0)
    (folder / "STOP").touch()
    assert outcome(slurm_cluster, job, folder) == ("FAILED", "75:0", 0, 1)


def test_a_cancelled_job_stays_cancelled(submit, slurm_cluster):
    job, folder = submit("wait 0")
    wait_for_attempt(slurm_cluster, folder, 0)
    slurm_cluster.run("scancel", job)
    state, _, restarts, attempts = outcome(slurm_cluster, job, folder)
    assert (state, restarts, attempts) == ("CANCELLED", 0, 1)
    slurm_cluster.wait(lambda: not slurm_cluster.processes(job), 30, "its processes")


def test_the_controller_runs_inside_apptainer(submit, slurm_cluster, tmp_path):
    apptainer = tmp_path / "bin" / "apptainer"
    apptainer.write_text(
        '#!/bin/bash\nenv >"$0.env"\n'
        'until [[ $1 == image.sif ]]; do shift; done\nexec "${@:2}"\n'
    )
    apptainer.chmod(0o755)
    job, folder = submit("0", "--container=apptainer", "--image=image.sif")
    assert outcome(slurm_cluster, job, folder) == ("COMPLETED", "0:0", 0, 1)
    seen = apptainer.with_suffix(".env").read_text()
    # What the controller starts each step with.
    assert "\nAREAL_CPPO_STEP_PREFIX=apptainer exec --no-home --bind " in seen
