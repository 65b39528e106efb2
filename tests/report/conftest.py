"""Synthetic run folders, shaped like those that training writes."""

import json
from math import exp, log
from pathlib import Path
from random import Random

import pytest
from PIL import Image, ImageDraw

from areal_cppo.report.html import write_report
from areal_cppo.report.samples import SampleView, TokenView, write_samples

RESPONSE = "<think>BC=7 AB=7 CA=1;7+7=14;14+1=15</think>\\boxed{15}"
PROMPT = "What is the triangle's perimeter?"


class RunFolder:
    """A run's folder that tests fill as far as they need."""

    def __init__(self, folder: Path, seed: int = 0):
        self.folder = folder
        self.random = Random(seed)
        folder.mkdir(parents=True, exist_ok=True)

    def lines(self, name: str, records: list[dict]) -> None:
        text = "".join(json.dumps(record) + "\n" for record in records)
        (self.folder / name).write_text(text)

    def json(self, name: str, value: object) -> None:
        (self.folder / name).write_text(json.dumps(value))

    def metrics(self, steps: int, cpl: bool = True) -> "RunFolder":
        self.lines("metrics.jsonl", [self.step(n, cpl) for n in range(1, steps + 1)])
        return self

    def step(self, n: int, cpl: bool = True) -> dict:
        noise = self.random.gauss
        accuracy = min(1, max(0, 0.65 - 0.4 * exp(-n / 25) + noise(0, 0.05)))
        stale = max(0.0, min(2.0, 1 + noise(0, 0.2)))
        record = {
            "step": n,
            "version": n,
            "time": 1.7e9 + 7 * n,
            "seconds": 7.1 * n,
            "samples": 128 * n,
            "reward": 0.9 * accuracy + 0.1,
            "accuracy": accuracy,
            "response_tokens": 35.2,
            "tokens_per_second": 640 + noise(0, 30),
            "policy_loss": noise(0, 0.01),
            "policy_entropy": 0.2 * exp(-n / 60),
            "grad_norm": 0.8 + noise(0, 0.1),
            "lr": 2e-4,
            "staleness_mean": stale,
            "staleness_max": 2,
            "staleness_histogram": {"0": 800, "1": 3000, "2": 700},
            "refused": {"too long": n // 10, "no image": 0},
            "seconds_rollout": 0.9 + abs(noise(0, 0.4)),
            "seconds_logprobs": 1.2,
            "seconds_update": 4.2 + noise(0, 0.2),
            "seconds_weights": 0.15,
        }
        if cpl:
            positive, negative = 0.02 + 0.01 * exp(-n / 20), 0.05 + 0.002 * n
            record |= {
                "cpl_loss": log(1 + exp((positive - negative) / 0.1)),
                "cpl_positive_divergence": positive + noise(0, 0.004),
                "cpl_negative_divergence": negative + noise(0, 0.01),
                "cpl_margin": negative - positive + noise(0, 0.01),
                "cpl_inverted_margin": 0.002,
                "cpl_selected_per_response": 9.6 + noise(0, 0.4),
                "cpl_selected_share": 0.27 + noise(0, 0.01),
                "cpl_unselected_divergence": 0.01 + abs(noise(0, 0.002)),
                "cpl_gated_share": 0.45,
                "cpl_anchor_entropy": 0.4,
                "cpl_negative_entropy": 0.9,
                "cpl_entropy_gain": 0.2,
                "cpl_gain_p10": 0.0,
                "cpl_gain_p50": 0.05 + abs(noise(0, 0.01)),
                "cpl_gain_p90": 0.7 + noise(0, 0.02),
                "cpl_importance_weight": 0.99,
                "cpl_view_sequences": 58,
            }
        return record

    def evaluations(self, steps: list[int], outcomes: bool = True) -> "RunFolder":
        records = []
        for step in steps:
            accuracy = 0.6 - 0.27 * exp(-step / 25)
            correct = "".join("01"[self.random.random() < accuracy] for _ in range(300))
            share = correct.count("1") / 300
            records.append({"step": step, "accuracy": share, "n": 300, "format": 0.99})
            if outcomes:
                records[-1]["correct"] = correct
        self.lines("evaluations.jsonl", records)
        return self

    def timeline(self, steps: int, requests: int = 128) -> "RunFolder":
        generation, training, weights = [], [], []
        for n in range(steps):
            at = 7.1 * n
            for _ in range(requests):
                start = at + self.random.uniform(0, 5.5)
                generation.append([start, start + self.random.uniform(0.5, 1.8)])
            training.append([at + 0.9, at + 2.1, "log-probs"])
            training.append([at + 2.1, at + 6.4, "update"])
            training.append([at + 6.4, at + 6.6, "save"])
            weights.append([at + 6.6, at + 6.8])
        lanes = {"generation": generation, "training": training, "weights": weights}
        self.json("timeline.json", lanes)
        return self

    def summary(self, steps: int, objective: str = "cppo") -> "RunFolder":
        self.json(
            "summary.json",
            {
                "objective": objective,
                "seed": 1,
                "steps": steps,
                "seconds": 7.1 * steps,
                "accuracy_before": 0.33,
                "accuracy_after": 0.58,
                "accuracy_n": 300,
                "overlap_share": 0.71,
                "max_staleness": 2,
                "mean_staleness": 0.98,
                "refused": {"too long": 6, "no image": 0},
            },
        )
        return self

    def samples(self, count: int = 2, **changes) -> "RunFolder":
        views = []
        for number in range(count):
            for policy in ("before", "after"):
                views.append(self.sample(number, policy, **changes))
        write_samples(self.folder, views)
        return self

    def step_samples(
        self, *steps: int, tokens: bool = True, columns: dict | None = None, **changes
    ) -> "RunFolder":
        """A gated response, another of two pictures' problem, and a refused one."""
        (self.folder / "samples").mkdir(exist_ok=True)
        columns = columns or {
            "text": ["7", "+", "8"],
            "gain": [None, 0.1, 0.8],
            "selected": [None, False, True],
            "anchor_entropy": [None, 0.2, 0.1],
            "negative_entropy": [None, 0.3, 0.9],
            "negative_divergence": [None, 0.0, 1.5],
        }
        for step in steps:
            stem = f"step-{step:05d}"
            picture = Image.new("RGB", (84, 84), (236, step % 256, 228))
            picture.save(self.folder / "samples" / f"{stem}-0.webp", lossless=True)
            common = {
                "query_id": "problem-0",
                "question": "<image> What is it?",
                "answer": "15",
                "response": "plain <b>text</b>",
                "response_tokens": 3,
                "images": 1,
                "parts": {"answer": 1.0, "format": 1.0},
                "pictures": {"anchor": f"{stem}-0.webp"},
                **changes,
            }
            trained = common | {
                "reward": 1.0,
                "advantage": 0.5,
                "versions": [[3, 2], [4, 1]],
                "staleness": 1,
                "tokens": {},
            }
            views = dict.fromkeys(("anchor", "positive", "negative"), f"{stem}-0.webp")
            gated = trained | {"tokens": columns, "pictures": views}
            others = [trained | {"images": 2}, trained | {"pictures": {}, "images": 0}]
            refused = [common | {"reason": "vision_token", "parts": {}}]
            whole = {"step": step, "responses": others, "refused": refused}
            if tokens:
                whole["responses"] = [gated, *others]
            self.json(f"samples/{stem}.json", whole)
        return self

    def sample(self, number: int, policy: str, **changes) -> SampleView:
        picture = Image.new("RGB", (84, 84), (236, 234, 228))
        draw = ImageDraw.Draw(picture)
        draw.polygon([(14, 70), (70, 66), (38 + 5 * number, 12)], outline=(40, 60, 120))
        draw.text((36, 68), "7", fill=(30, 30, 30))
        positive = picture.rotate(8, fillcolor=(236, 234, 228))
        negative = picture.copy()
        for _ in range(50):
            x, y = self.random.randrange(78), self.random.randrange(78)
            color = tuple(self.random.randrange(256) for _ in range(3))
            ImageDraw.Draw(negative).rectangle((x, y, x + 7, y + 7), fill=color)
        tokens = [self.token(at, char) for at, char in enumerate(RESPONSE)]
        fields = {
            "title": f"Triangle {number + 1}",
            "prompt": PROMPT,
            "anchor": picture,
            "positive": positive,
            "negative": negative,
            "tokens": tokens,
            "correct": policy == "after",
            "answer": "15",
            "reward": 1.0 if policy == "after" else 0.1,
            "policy": policy,
        }
        return SampleView(**(fields | changes))

    def token(self, at: int, char: str) -> TokenView:
        role = "T"
        if char.isdigit():
            role = "R" if RESPONSE[at - 1] == "=" and at < 22 else "A"
            role = "F" if at > 40 else role
        elif char in "ABC":
            role = "N"
        gain = self.random.uniform(0.6, 0.95) if role == "R" else 0.0
        if role in "NA":
            gain = self.random.uniform(0, 0.5)
        negative = 1.2 * gain + 0.1
        return TokenView(char, gain, negative * (1 - gain), negative, gain > 0.3, role)

    def config(self, text: str = "") -> "RunFolder":
        default = (
            f"seed: 1\nfileroot: {self.folder}/logs\n"
            "experiment_name: triangles\ntrial_name: cppo\ndata: {source: triangles}\n"
            "cluster: {n_nodes: 1, n_gpus_per_node: 0}\n"
            "actor: {objective: cppo, path: tasks/triangles/checkpoint}\n"
        )
        (self.folder / "config.yaml").write_text(text or default)
        return self

    def full(self, steps: int = 60, objective: str = "cppo") -> "RunFolder":
        marks = sorted({0, steps // 3, 2 * steps // 3, steps})
        self.metrics(steps, cpl=objective != "grpo").evaluations(marks)
        self.timeline(steps).summary(steps, objective).samples()
        self.step_samples(1, steps)
        machine = "2 CPU cores, 23.5 GiB of memory"
        start = {"event": "run_started", "time": 1.7e9, "machine": machine}
        self.lines("events.jsonl", [start])
        return self.config()


@pytest.fixture(scope="session")
def full_folder(tmp_path_factory) -> RunFolder:
    """A finished CPPO run of 12 steps with its report, for tests that only read."""
    run = RunFolder(tmp_path_factory.mktemp("full") / "run").full(steps=12)
    write_report(run.folder)
    return run


@pytest.fixture
def run_folder(tmp_path) -> RunFolder:
    """An empty run folder."""
    return RunFolder(tmp_path / "run")


@pytest.fixture(scope="module")
def browser():
    from tests.report import chromium

    try:
        with chromium.started() as browser:
            yield browser
    except chromium.ChromiumMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def pages(tmp_path_factory, full_folder) -> dict[str, Path]:
    """One file of each kind."""
    from tests.report.pages import write_pages

    folder = tmp_path_factory.mktemp("pages")
    other = RunFolder(folder / "a run of a long name, begun again").full(steps=4)
    return write_pages(folder, full_folder, other)
