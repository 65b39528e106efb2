"""`samples.json` and its PNGs: there and back, and what is refused."""

import json
from dataclasses import replace

import pytest

from areal_cppo.report.samples import read_samples, write_samples


def test_there_and_back(run_folder):
    written = [run_folder.sample(0, "before"), run_folder.sample(1, "after")]
    write_samples(run_folder.folder, written)
    for old, new in zip(written, read_samples(run_folder.folder), strict=True):
        assert replace(new, anchor=None, positive=None, negative=None) == replace(
            old, anchor=None, positive=None, negative=None
        )
        for kind in ("anchor", "positive", "negative"):
            assert getattr(new, kind).tobytes() == getattr(old, kind).tobytes()


def test_run_without_views(run_folder):
    write_samples(
        run_folder.folder, [run_folder.sample(0, "after", positive=None, negative=None)]
    )
    (sample,) = read_samples(run_folder.folder)
    assert sample.anchor is not None
    assert sample.positive is None


def test_missing_picture_is_none(run_folder):
    run_folder.samples(1)
    (run_folder.folder / "samples" / "0-negative.png").unlink()
    assert read_samples(run_folder.folder)[0].negative is None


def test_picture_outside_the_run_is_refused(run_folder):
    run_folder.samples(1)
    path = run_folder.folder / "samples.json"
    records = json.loads(path.read_text())
    records[0]["anchor"] = "../private.png"
    path.write_text(json.dumps(records))
    with pytest.raises(ValueError, match="inside the run's folder"):
        read_samples(run_folder.folder)


def test_nan_is_refused(run_folder):
    token = replace(run_folder.token(0, "<"), gain=float("nan"))
    with pytest.raises(ValueError, match="finite"):
        write_samples(
            run_folder.folder, [run_folder.sample(0, "after", tokens=[token])]
        )


def test_unknown_policy_is_refused(run_folder):
    with pytest.raises(ValueError, match="found 'during'"):
        write_samples(run_folder.folder, [run_folder.sample(0, "during")])


def test_file_without_the_newer_keys(run_folder):
    """As an earlier version wrote it."""
    run_folder.samples(1)
    path = run_folder.folder / "samples.json"
    records = json.loads(path.read_text())
    for record in records:
        del record["notes"], record["perturbations"]
        for token in record["tokens"]:
            for key in [key for key in token if key.startswith("positive_")]:
                del token[key]
    path.write_text(json.dumps(records))
    sample = read_samples(run_folder.folder)[0]
    assert sample.notes == () and sample.perturbations == {}
    assert sample.tokens[0].positive_entropy is None


def test_notes_and_perturbations_are_kept(run_folder):
    kept = {"notes": ("one", "two"), "perturbations": {"negative": "zoom_crop"}}
    write_samples(run_folder.folder, [run_folder.sample(0, "after", **kept)])
    (sample,) = read_samples(run_folder.folder)
    assert (sample.notes, sample.perturbations) == tuple(kept.values())


def test_response_that_nothing_judges(run_folder):
    nothing = {"correct": None, "reward": None, "policy": None, "answer": ""}
    sample = replace(run_folder.sample(0, "after"), **nothing)
    write_samples(run_folder.folder, [sample])
    (sample,) = read_samples(run_folder.folder)
    assert (sample.correct, sample.reward, sample.policy) == (None, None, None)
