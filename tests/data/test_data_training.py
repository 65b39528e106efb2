"""The demo's model trains from files in the public schemas, with real AReaL and SGLang.

Three steps teach nothing; what is looked at is that problems, pictures, answers and
rewards arrive.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from areal_cppo.tasks import responses
from areal_cppo.tasks.problems import TRIANGLES
from tests.data.problem_files import encoded, virl39k, write_images_table

pytest.importorskip("sglang", reason="needs SGLang: make setup")
pytestmark = [pytest.mark.sglang, pytest.mark.slow, pytest.mark.timeout(900)]

N = 40
# What the demo's model reads: its vocabulary has 29 tokens.
PROMPT = ("data.instruction=", "data.max_prompt_tokens=64")


def write_geometry3k(folder):
    problems = [TRIANGLES.make_problem(7, i, "train") for i in range(N)]
    rows = [
        {
            "images": [encoded(problem.image)],
            "problem": f"<image>{responses.QUESTION}",
            "answer": problem.answer,
        }
        for problem in problems
    ]
    write_images_table(folder / "data" / "train-00000-of-00001.parquet", rows)


def write_virl39k(folder):
    """With one picture missing."""
    rows = []
    for i in range(N):
        problem = TRIANGLES.make_problem(7, i, "train")
        file = folder / "images" / "Made-up" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(problem.image))
        rows.append(
            {
                "question": f"<image>{responses.QUESTION}",
                "answer": f"\\boxed{{{problem.answer}}}",
                "PassRate_32BTrained": 0.5,
                "PassRate_7BBase": None,
                "category": "(GradeSchool) Geometric",
                "source": "made up",
                "qid": f"made-up-{i}",
                "image": [f"images/Made-up/{i}.png"],
            }
        )
    virl39k(folder, rows, n=0)
    (folder / "images" / "Made-up" / "3.png").unlink()


@pytest.mark.parametrize(
    ("source", "write", "used", "seed"),
    [
        ("geometry3k", write_geometry3k, "40 of 40 rows of", 41),
        ("virl39k", write_virl39k, "39 of 40 rows of", 42),
    ],
)
def test_training_from_a_public_schema(tmp_path, source, write, used, seed):
    """AReaL derives ports from the seed: no other test has these."""
    write(tmp_path / "data")
    settings = (
        f"actor.path={TRIANGLES.checkpoint}",
        f"train_dataset.path={tmp_path / 'data'}",
        f"data.source={source}",
        *PROMPT,
        "heldout.size=0",
        "total_train_steps=3",
        f"seed={seed}",
        f"run_dir={tmp_path / 'run'}",
    )
    command = ("train", "--config", "configs/triangles.yaml", *settings)
    done = subprocess.run(
        [sys.executable, "-m", "areal_cppo", *command],
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert used in done.stdout + done.stderr
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(metrics) == 3
    steps = [json.loads(line) for line in metrics]
    assert any(0 < step["accuracy"] < 1 for step in steps)
    assert all(step["reward"] > 0.05 for step in steps)
