"""What runs the commands that README and docs show, or why nothing does.

A pattern, and the tests that run such a command, on smaller data or a tiny model where
the shown one takes a GPU or hours; or `not: ` and the reason.
"""

RUN_BY: tuple[tuple[str, str], ...] = (
    # the environment
    (r"make setup-gpu\b", "tests/cli/test_install_lines.py"),
    (r"make (setup|lint|test-all)\b", ".ci/run"),
    (r"make test\b", "not: it is what runs these tests"),
    (r"make demo\b", "tests/test_demo.py"),
    (r"make chaos\b", "tests/chaos/test_chaos.py"),
    (r"make figures\b", "tests/test_figures.py"),
    (r"make gpu-check\b", "tests/gpu_check/test_gpu_check_steps.py"),
    (r"make gpu-wheels\b", "not: downloads for another machine"),
    (r"make format\b", "not: it changes files"),
    (r"(\.|mkdir|export|git clone|cat >|cd) ", "not: the shell's own"),
    (r"pip install .*flash-attn", "not: builds with CUDA"),
    (r"hf (download|upload|auth)\b", "not: needs the hub"),
    (r"python -m sglang\.launch_server", "not: SGLang's own, for a GPU"),
    # runs
    (r"areal-cppo demo\b", "tests/test_demo.py"),
    (r"areal-cppo train --config \S+ --dry-run", "tests/config/test_dry_runs.py"),
    (r"areal-cppo train --config examples/cppo/custom/", "tests/test_own_run.py"),
    (r"areal-cppo train --config (mine|configs/qwen)", "tests/test_recipe.py"),
    (r"examples/cppo/run_\S+\.sh", "tests/config/test_dry_runs.py"),
    (r"areal-cppo slurm .*-o job\.sh", "tests/cluster/test_slurm_script.py"),
    (r"areal-cppo slurm .*--submit", "tests/cluster/test_slurm_requeue.py"),
    (r"sbatch examples/cppo/slurm/", "tests/cluster/test_slurm_cluster.py"),
    (r"areal-cppo doctor\b", "tests/cli/test_cli_doctor.py"),
    # data, rewards
    (r"python examples/cppo/custom/make_pictures\.py", "tests/test_own_run.py"),
    (r"areal-cppo reward\b", "tests/rewards/test_explain.py"),
    (r"python docs/evidence\.py", "tests/test_figures.py"),
    (r"python -m tests\.rewards\.examine", "tests/rewards/test_examine.py"),
    # what came out
    (r"areal-cppo eval --config examples/cppo/custom", "tests/test_own_run.py"),
    (r"areal-cppo eval\b", "tests/evaluation/test_evaluation_sglang.py"),
    (r"areal-cppo report\b", "tests/report/test_compare.py"),
    (r"areal-cppo card\b", "tests/report/test_card.py"),
    (r"areal-cppo views\b", "tests/inspection/test_inspection_cli.py"),
    (r"areal-cppo inspect\b", "tests/inspection/test_inspection_cli.py"),
    # servers
    (r"areal-cppo serve\b", "tests/conftest.py"),
    (
        r"(AREAL_CPPO_SERVER=|\.venv/bin/python -m pytest)",
        "tests/conformance",
    ),
    # measurements
    (r"areal-cppo bench train-step\b", "tests/bench/test_bench_train_step.py"),
    (r"areal-cppo bench hand-over\b", "tests/bench/test_bench_hand_over.py"),
    (r"areal-cppo bench rollout\b", "tests/bench/test_bench_rollout.py"),
    (
        r"areal-cppo bench async .*--staleness",
        "tests/bench/test_bench_async_compare.py",
    ),
    (r"areal-cppo bench async\b", "tests/bench/test_bench_async.py"),
    (r"areal-cppo bench predict\b", "tests/bench/test_bench_predict.py"),
    (r"python -m tests\.step\.test_minibatches", "tests/step/test_minibatches.py"),
    (r"areal-cppo plan\b", "tests/plan/test_plan_cli.py"),
    (
        r"python -m tests\.plan\.validate",
        "not: 25 minutes; test_plan_validity.py",
    ),
    (r"python -m tests\.plan\.roofline", "tests/plan/test_plan_rates.py"),
    (r"areal-cppo study\b", "tests/studies/test_studies_command.py"),
    (r"areal-cppo tiny-model\b", "tests/tasks/test_warmup.py"),
)
