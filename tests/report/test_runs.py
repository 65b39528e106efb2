"""Reading run folders: whole, partial, torn, and folders that are none."""

import json

import pytest

from areal_cppo.report.heldout import accuracy_change, heldout_points
from areal_cppo.report.runs import load_run


def test_full_run(run_folder):
    run = load_run(run_folder.full(steps=12).folder)
    assert [record["step"] for record in run.metrics] == list(range(1, 13))
    assert len(run.timeline.generation) == 12 * 128
    assert len(run.samples) == 4
    assert (run.objective, run.seed, run.torn_lines) == ("cppo", 1, 0)
    assert run.has_cpl
    assert run.notes == []


def test_unknown_keys_are_kept(run_folder):
    run_folder.lines("metrics.jsonl", [{"step": 1, "seconds": 2.0, "weather": "fine"}])
    assert load_run(run_folder.folder).last("weather") == "fine"


def test_torn_last_line(run_folder):
    path = run_folder.metrics(3).folder / "metrics.jsonl"
    path.write_text(path.read_text()[:-40])
    run = load_run(run_folder.folder)
    assert run.torn_lines == 1
    assert len(run.metrics) == 2
    assert any("1 unreadable line (line 3)" in note for note in run.notes)


def test_torn_inside_a_character(run_folder):
    line = json.dumps({"step": 1, "note": "é"}, ensure_ascii=False).encode()
    (run_folder.folder / "metrics.jsonl").write_bytes(line + b"\n" + line[:-3])
    assert load_run(run_folder.folder).torn_lines == 1


def test_resumed_run_keeps_the_latest_record(run_folder):
    records = [{"step": step, "reward": 0.1} for step in (1, 2, 3)]
    run_folder.lines("metrics.jsonl", [*records, {"step": 3, "reward": 0.9}])
    run = load_run(run_folder.folder)
    assert run.series("reward") == ([1, 2, 3], [0.1, 0.1, 0.9])
    assert any("1 records repeat" in note for note in run.notes)


def test_series_leaves_out_what_is_no_number(run_folder):
    text = '{"step":1,"x":NaN}\n{"step":2,"x":true}\n{"step":3,"x":"7"}\n'
    text += '{"step":4}\n{"step":5,"x":null}\n{"step":6,"x":7}\n'
    (run_folder.folder / "metrics.jsonl").write_text(text)
    assert load_run(run_folder.folder).series("x") == ([6], [7.0])


def test_objective_and_seed_of_an_interrupted_run_come_from_its_config(run_folder):
    run_folder.metrics(2).config("seed: 3\nactor:\n  objective: cpl\n")
    run = load_run(run_folder.folder)
    assert (run.objective, run.seed) == ("cpl", 3)
    assert run.seconds == pytest.approx(14.2)
    assert any("summary.json is missing" in note for note in run.notes)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("summary.json", "{"),
        ("timeline.json", "[1]"),
        ("samples.json", '{"a": 1}'),
        ("samples.json", '[{"title": 1}]'),
        ("config.yaml", "a: ["),
    ],
)
def test_broken_file_is_named(run_folder, name, text):
    (run_folder.metrics(2).folder / name).write_text(text)
    assert any(name in note for note in load_run(run_folder.folder).notes)


def test_interval_without_an_end(run_folder):
    run_folder.metrics(1).json("timeline.json", {"generation": [[1, None], [2, 3]]})
    run = load_run(run_folder.folder)
    assert run.timeline.generation == [(2, 3)]
    assert any("1 intervals" in note for note in run.notes)


@pytest.mark.parametrize("kind", ["missing", "file", "empty", "other"])
def test_what_is_no_run(tmp_path, kind):
    path = tmp_path / kind
    if kind == "file":
        path.write_text("")
    elif kind != "missing":
        path.mkdir()
    if kind == "other":
        (path / "photo.jpg").write_text("")
    with pytest.raises(ValueError, match="(?s)expected.*found.*run_dir"):
        load_run(path)


def test_change_is_paired_when_outcomes_are_there(run_folder):
    run_folder.lines(
        "evaluations.jsonl",
        [
            {"step": 0, "accuracy": 0.5, "n": 20, "correct": "1" * 10 + "0" * 10},
            {"step": 9, "accuracy": 0.75, "n": 20, "correct": "0" + "1" * 15 + "0" * 4},
        ],
    )
    change = accuracy_change(heldout_points(load_run(run_folder.folder)))
    assert change.paired
    assert change.points == pytest.approx(25)
    assert change.interval == pytest.approx((-0.022554, 0.477100), abs=2e-5)


def test_change_is_unpaired_without_outcomes(run_folder):
    run_folder.evaluations([0, 10], outcomes=False)
    change = accuracy_change(heldout_points(load_run(run_folder.folder)))
    assert not change.paired
    assert change.interval[0] < change.points / 100 < change.interval[1]


def test_heldout_points_from_the_summary(run_folder):
    run_folder.summary(10)
    points = heldout_points(load_run(run_folder.folder))
    assert [(p.step, p.accuracy, p.n) for p in points] == [
        (0, 0.33, 300),
        (10, 0.58, 300),
    ]


def test_last_evaluation_keeps_its_step_in_an_interrupted_run(run_folder):
    run_folder.evaluations([0, 20]).summary(27)
    points = heldout_points(load_run(run_folder.folder))
    assert [point.step for point in points] == [0, 20]
