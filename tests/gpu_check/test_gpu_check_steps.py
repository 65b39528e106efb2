"""The steps of the GPU check in miniature, without a GPU.

Torch's flash-attention is stood in for (flash_on_cpu.py). That a step holds its bounds
here says that it runs; that it breaks them where attention, devices or memory are
wrong, that it would notice. Not covered: a GPU.
"""

from __future__ import annotations

import importlib
import os
from unittest import mock

import pytest
import torch

from areal_cppo.bench.quiet import quiet
from areal_cppo.bench.train_step import Measured
from areal_cppo.core import head as core_head
from areal_cppo.core import perturbations
from tests.gpu_check import (
    actor,
    attention,
    bench,
    folder,
    gradients,
    times,
    views,
    worker,
)
from tests.gpu_check import head as head_step
from tests.gpu_check.__main__ import main
from tests.gpu_check.findings import Findings
from tests.gpu_check.layout import SharedRow, draw
from tests.gpu_check.setting import Setting
from tests.gpu_check.steps import STEPS
from tests.step import flash_on_cpu

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def process():
    """The environment, which actors change; quiet; flash-attention's stand-in."""
    with mock.patch.dict(os.environ), quiet(), flash_on_cpu.flash_on_cpu():
        yield


@pytest.fixture
def setting(tmp_path) -> Setting:
    return Setting(CPU, True, tmp_path)


@pytest.fixture
def wrong_corner(monkeypatch):
    """A kernel that aligns the causal mask to the top left."""
    right = flash_on_cpu._scores

    def wrong(query, key, causal, scale):
        scores = right(query, key, False, scale)
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool)
        return scores.masked_fill(~seen.tril(), -torch.inf) if causal else scores

    monkeypatch.setattr(flash_on_cpu, "_scores", wrong)


def found_by(module, setting) -> Findings:
    findings = Findings()
    module.run(setting, findings)
    assert findings.headline
    return findings


def broken(findings: Findings) -> list[str]:
    return [bound["name"] for bound in findings.bounds if not bound["held"]]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_modules_import(step):
    assert callable(importlib.import_module(f"tests.gpu_check.{step.module}").run)


@pytest.mark.parametrize(
    "name", ["environment", "attention", "times", "views", "head", "hand_over"]
)
def test_a_step_holds_its_bounds(name, setting):
    module = importlib.import_module(f"tests.gpu_check.{name}")
    findings = found_by(module, setting)
    assert broken(findings) == []
    assert findings.figures


class TestAttention:
    def test_the_wrong_corner_is_noticed(self, setting, wrong_corner):
        names = broken(found_by(attention, setting))
        assert "text: distance from a mask aligned to the wrong corner" in names
        for key in attention.NAMES:
            assert f"text: error of {key} over that of bf16 at best" in names
        assert not [name for name in names if name.startswith("vision")]

    def test_windows_that_see_each_other_are_noticed(self, setting, monkeypatch):
        right = attention.torch_flash_attention

        def wrong(*args, cu_seq_lens_q, cu_seq_lens_k):
            whole = cu_seq_lens_q[[0, -1]]
            return right(*args, cu_seq_lens_q=whole, cu_seq_lens_k=whole)

        monkeypatch.setattr(attention, "torch_flash_attention", wrong)
        names = broken(found_by(attention, setting))
        assert len(names) == 8 and all(name.startswith("vision") for name in names)

    def test_keys_of_another_prompt_are_noticed(self, setting, monkeypatch):
        right = SharedRow.packing

        def wrong(self, kernel):
            packing = right(self, kernel)
            packing.key_index[-1] = 0
            return packing

        monkeypatch.setattr(SharedRow, "packing", wrong)
        names = broken(found_by(attention, setting))
        assert len(names) >= 3 and all(name.startswith("text") for name in names)

    def test_the_full_sizes_are_the_plans(self):
        sizes = attention.FULL
        (prompt, responses), *_ = sizes.groups
        assert prompt == 700 and len(responses) == 8
        assert min(responses) == 1 and max(responses) == 900
        assert sizes.heads == (16, 2) and sizes.size == 128 and sizes.vision_size == 80
        assert sum(sizes.windows) == sum(sizes.images)


def test_the_segment_sum_is_the_gradient_of_index_select():
    row = SharedRow(((5, (2, 3)), (1, (4,))), CPU)
    index = row.packing("sdpa").key_index
    gradient = draw(2, len(index), 8, CPU, 0)[0].transpose(0, 1).contiguous()
    expected = torch.zeros(row.tokens, 2, 8).index_add_(0, index, gradient.float())
    found = times.segment_sum(row, times.Places.of(row), gradient)
    assert torch.equal(found, expected.bfloat16())


class TestActor:
    def test_kernels_and_checkpointing(self, setting):
        findings = Findings()
        assert 0 < actor._kernels(setting, findings) < actor.KERNELS
        assert broken(findings) == [] and len(findings.bounds) == 2

    def test_the_wrong_corner_is_noticed(self, setting, wrong_corner):
        findings = Findings()
        actor._kernels(setting, findings)
        name = f"bf16 flash against sdpa: {gradients.FAMILY}, cppo"
        assert broken(findings) == [name]

    def test_devices(self, tmp_path):
        (case,) = (c for c in gradients.CASES if c.batch == "no gate")
        own = gradients.fp32_gradients(tmp_path, (case,))
        findings = Findings()
        assert actor.compare_devices(own, own, findings) == 0
        other = {case.name: own[case.name] | {"gradient": own[case.name]["gradient"]}}
        other[case.name]["gradient"] = other[case.name]["gradient"] * 1.001
        actor.compare_devices(own, other, findings)
        assert broken(findings) == [f"fp32 GPU against CPU: {case.name}"]
        findings = Findings()
        failed = {case.name: {"error": "RuntimeError: no"}}
        actor.compare_devices(failed, own, findings)
        name = f"fp32 GPU against CPU: {case.name}: RuntimeError: no"
        assert broken(findings) == [name]
        still = {case.name: own[case.name] | {"moved": 0.0}}
        findings = Findings()
        actor.compare_devices(still, own, findings)
        assert "moves nothing" in broken(findings)[0]

    def test_a_selection_is_replayed(self, monkeypatch):
        from areal_cppo.core import perception

        masks = iter([torch.tensor([True, False]), torch.tensor([False, False])])
        monkeypatch.setattr(perception, "select_perception_tokens", lambda: next(masks))
        selections = gradients.Selections()
        with selections.recorded():
            perception.select_perception_tokens()
        with selections.replayed():
            assert perception.select_perception_tokens().tolist() == [True, False]
        assert selections.flipped == 1


def test_a_view_that_differs_is_noticed(setting, monkeypatch):
    right = perturbations.Blank.apply
    calls = iter(range(1000))

    def wrong(self, image, generator):
        return right(self, image, generator) + 0.01 * (next(calls) % 2)

    monkeypatch.setattr(perturbations.Blank, "apply", wrong)
    assert broken(found_by(views, setting)) == ["blank: GPU against CPU"]


def test_a_head_that_keeps_all_logits_is_noticed(setting, monkeypatch):
    monkeypatch.setattr(
        head_step,
        "token_statistics",
        lambda *args: core_head.token_statistics(*args, chunk_size=None),
    )
    sizes = head_step.Sizes(4096, 40, 20, 16, 500)
    monkeypatch.setattr(head_step, "TINY", sizes)
    assert broken(found_by(head_step, setting)) == ["peak of statistics, bytes"]


class TestBench:
    @pytest.mark.slow
    def test_train_steps_and_a_profile(self, setting):
        findings = found_by(bench, setting)
        assert broken(findings) == []
        assert findings.figures["seconds_over_each_other"]["d / a, 512 tokens"] > 0
        profiling = importlib.import_module("tests.gpu_check.profiling")
        figures = found_by(profiling, setting).figures
        assert figures["vision_tower"]["forward_passes"] == 3
        assert figures["vision_tower"]["backward_passes"] == 3
        assert 0 < figures["vision_tower"]["share"] < 1
        assert figures["operators_that_wait"]["aten._local_scalar_dense"] > 0

    def run(self, setting, monkeypatch, measure) -> Findings:
        monkeypatch.setattr(bench, "model", lambda _: (setting.scratch, None))
        monkeypatch.setattr(bench, "measure", measure)
        return found_by(bench, setting)

    def test_stock_that_runs_out_of_memory_breaks_nothing(self, setting, monkeypatch):
        def measure(arms, *_):
            results = _[-1]
            if arms[0].letter == "a":
                raise torch.OutOfMemoryError("no room")
            for arm in arms:
                results.append(Measured(arm, bench_counts(), [1.0, 3.0]))

        findings = self.run(setting, monkeypatch, measure)
        assert broken(findings) == []
        part = findings.figures["512 tokens, AReaL's"]
        assert part["error"] == "OutOfMemoryError: no room" and part["arms"] == []

    def test_ours_that_runs_out_of_memory_does(self, setting, monkeypatch):
        def measure(arms, *_):
            _[-1].append(Measured(arms[0], failure="out of memory"))

        findings = self.run(setting, monkeypatch, measure)
        assert "512 tokens: arms measured" in broken(findings)


def bench_counts():
    from areal_cppo.bench.counting import Counts

    return Counts(10, 4, 2, 6)


def test_an_error_is_kept_with_what_was_found_before(setting, monkeypatch, tmp_path):
    def run(setting, findings):
        findings.figure(kept=1)
        raise RuntimeError("CUDA error: an illegal memory access\nwas encountered")

    monkeypatch.setattr(times, "run", run)
    usable = worker.run_step(STEPS[2], setting, tmp_path, {"chip": "none"})
    assert not usable  # of this process, after such an error
    document = folder.read(tmp_path)[3]
    assert document["status"] == folder.FAILED and document["figures"] == {"kept": 1}
    assert document["error"].startswith("RuntimeError: CUDA error: an illegal memory")
    assert "in run" in document["traceback"] and document["about"] == {"chip": "none"}


@pytest.mark.slow
def test_a_rehearsal(tmp_path, capfd):
    arguments = ["--rehearse", "--steps", "4,9,10", "--out", str(tmp_path)]
    assert main(arguments) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[1].startswith("4 actor") and "passed, 7 of 7 bounds" in lines[1]
    assert main(["--show", str(tmp_path)]) == 0
    shown = capfd.readouterr().out
    assert "| 9 hand-over |" in shown and "| 10 learning |" in shown
