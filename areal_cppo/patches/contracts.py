"""What of AReaL's and SGLang's insides this package is written against.

Methods that are overridden, and private names that are used. Tests see that both are
complete, and that `docs/upstream.md` says why each private one is needed.
"""

from __future__ import annotations

import re
import sys

from areal_cppo.patches.upstream import expect, expect_code, expect_inside
from areal_cppo.patches.version import installed

# By class: a method with its signature, an attribute of the class, or `self.` and one
# that its constructor sets. The functions of a module stand behind its bare name. What
# stands here twice has the first signature in AReaL 1.0.4 and v2.0.0, the second later.
CONTRACTS = {
    "areal.api.cli_args:PPOActorConfig": """
        __post_init__(self)
        should_compute_prox_logp(self)
        """,
    "areal.api.cli_args:PPOConfig": """
        __post_init__(self)
        """,
    "areal.api.cli_args:RecoverConfig": """
        __post_init__(self)
        """,
    "areal.api.workflow_api:RolloutWorkflow": """
        arun_episode(self, engine, data)
        """,
    "areal.engine.fsdp_engine:FSDPEngine": """
        _compute_logprobs_and_loss(self, logits, ctx, loss_fn, loss_weight_fn,
            total_loss_weight, loss_multiplier=1.0)
        _compute_logprobs_entropy(self, logits, inputs, ulysses_pad_size=0)
        _create_device_model(self)
        _ensure_ready(self)
        _get_full_tensor(self, param)
        _prepare_mb_inputs(self, mb_item)
        _prepare_mb_list(self, input_)
        forward_backward_batch(self, mb_list, process_output_fn, forward_only=False)
        forward_batch(self, input_, output_seqlens=None, aggregate_fn=...)
        initialize(self, addr, ft_spec, *args, **kwargs)
        train_batch(self, input_, loss_fn, loss_weight_fn)
        """,
    "areal.engine.fsdp_engine:FSDPPPOActor": """
        as_controller(config, scheduler)
        compute_advantages(self, *args, **kwargs)
        compute_logp(self, *args, **kwargs)
        ppo_update(self, *args, **kwargs)
        """,
    "areal.engine.sglang_remote:RemoteSGLangEngine": """
        as_controller(config, scheduler)
        initialize(self, engine_id=None, addr=None, train_data_parallel_size=None)
        """,
    "areal.engine.sglang_remote:SGLangBackend": """
        build_generation_request(self, req, with_lora, version)
        parse_generation_response(self, response)
        """,
    "areal.infra.controller.rollout_controller:": """
        _RemoteRolloutResult(task_id, trajectory)
        _RemoteRolloutTaskInput(task_id, data, workflow, workflow_kwargs,
            should_accept_fn, is_eval=False, group_size=1, proxy_addr=None)
        _RemoteRolloutTaskInput(task_id, data, workflow, workflow_kwargs,
            should_accept_fn, is_eval=False, group_size=1, proxy_addr=None,
            reward_normalization=False, drop_incomplete_group=False)
        """,
    "areal.infra.controller.rollout_controller:RolloutController": """
        _choose_worker(self)
        _collective_rpc(self, method, *args, **kwargs)
        _collective_rpc_async(self, method, *args, **kwargs)
        _create_submit_callback(self, pending_task)
        _engine_name(self, rank)
        _resolve_workflow_str(self, workflow)
        self._futures_lock
        self._pending_futures
        self._proxy_started
        self._task_id_generator
        callback_addr
        continue_generation(self)
        destroy(self)
        dispatcher
        export_stats(self)
        get_proxy_addr(self, rank)
        init_weights_update_group(self, meta)
        initialize(self, role, server_args=None, server_infos=None, *args, **kwargs)
        prepare_batch(self, dataloader, workflow, workflow_kwargs=None,
            should_accept_fn=None, group_size=1, dynamic_bs=False)
        prepare_batch(self, dataloader, workflow, workflow_kwargs=None,
            should_accept_fn=None, group_size=1, dynamic_bs=False,
            reward_normalization=False, drop_incomplete_group=False)
        staleness_manager
        update_weights_from_disk(self, meta)
        update_weights_from_distributed(self, meta, param_specs)
        """,
    "areal.infra.controller.train_controller:TrainController": """
        _custom_function_call(self, method, *args, rpc_meta=None, **kwargs)
        """,
    "areal.infra.remote_inf_engine:RemoteInfEngine": """
        _resolve_workflow(self, workflow, workflow_kwargs, group_size=1,
            proxy_addr=None)
        _resolve_workflow(self, workflow, workflow_kwargs, group_size=1,
            proxy_addr=None, reward_normalization=False, drop_incomplete_group=False)
        agenerate(self, req)
        continue_generation(self)
        destroy(self)
        init_weights_update_group(self, meta, xccl_group_ranks=None)
        initialize(self, engine_id=None, addr=None, train_data_parallel_size=None)
        launch_server(self, server_args)
        offload(self)
        offload(self, tags=None)
        onload(self, tags=None)
        pause_generation(self)
        teardown_server(self)
        update_weights_from_disk(self, meta)
        update_weights_from_distributed(self, meta, param_specs)
        """,
    "areal.infra.rpc.guard.engine_blueprint:": """
        _engines
        """,
    "areal.infra.scheduler.local:LocalScheduler": """
        _allocate_gpus(self, num_gpus)
        _allocate_ports(self, count)
        _cleanup_workers(self, workers)
        _configure_worker(self, worker_info, worker_rank)
        _fork_single_worker(self, session, role, idx, target_wi, target_role,
            command=None)
        _is_worker_ready(self, worker_info)
        _prepare_worker_specs(self, role, num_workers, schedulings)
        _read_log_tail(self, log_file, lines=50)
        self._workers
        create_workers(self, job, *args, **kwargs)
        delete_workers(self, role=None, reverse_order=False)
        n_gpus_per_node
        """,
    "areal.infra.scheduler.ray:RayScheduler": """
        _fork_single_worker(self, session, role, idx, target_wi, target_role,
            command=None)
        """,
    "areal.infra.scheduler.slurm:SlurmScheduler": """
        _check_job_status(self, role)
        _fork_single_worker(self, session, role, idx, target_wi, target_role,
            command=None)
        _generate_sbatch_script(self, role, replicas, nodes, total_gpus, cpus_per_task,
            mem_per_task, schedulings, nodelist, exclude)
        _log_path_of(self, role)
        _read_log_tail(self, role, lines=50)
        self._colocated_roles
        self._job_status_cache
        self._jobs
        delete_workers(self, role=None, reverse_order=False)
        n_gpus_per_node
        """,
    "areal.infra.workflow_executor:BatchTaskDispatcher": """
        _set_thread_exception(self, exc)
        self._input_cv
        self._result_cv
        active_submit_and_wait(self, input_generator, batch_size, dynamic_bs=False)
        """,
    "areal.trainer.ppo.actor:PPOActor": """
        self.adv_norm
        self.reward_norm
        """,
    "areal.trainer.ppo.actor:PPOActorController": """
        compute_advantages(self, *args, **kwargs)
        compute_logp(self, *args, **kwargs)
        ppo_update(self, *args, **kwargs)
        """,
    "areal.trainer.rl_trainer:PPOTrainer": """
        _create_dataloader(self, dataset, dataset_config, rank, world_size)
        _create_train_engine(self, actor_config, alloc)
        _export_and_commit_stats(self, epoch, epoch_step, global_step)
        _init_rollout(self, rollout_config, is_eval=False, lora_path=None)
        _init_scheduler(self)
        _save_recover_checkpoint(self, epoch, epoch_step, global_step)
        _evaluate(self, eval_workflow, eval_workflow_kwargs, epoch, epoch_step,
            global_step)
        close(self)
        train(self, workflow=None, eval_workflow=None, workflow_kwargs=None,
            eval_workflow_kwargs=None, dynamic_filter_fn=None, total_epochs=None)
        """,
    "areal.utils.logging:": """
        _created_loggers
        """,
    "areal.utils.stats_logger:StatsLogger": """
        commit(self, epoch, step, global_step, data)
        self._last_commit_step
        """,
    "areal.workflow.vision_rlvr:VisionRLVRWorkflow": """
        _collect_samples(self, engine, req, prompt_str, task_data)
        _compute_rewards(self, resp, prompt_str, task_data)
        arun_episode(self, engine, data)
        """,
}

# What is done here in another way, all of it: the code that was read for it.
REIMPLEMENTED = {
    "areal.infra.controller.rollout_controller:RolloutController."
    "_create_submit_callback": ("ec48d7062f4c", "f55e786abb13"),
}
# What there was not before 2.0: it is compared where there is one.
NEWER = {("areal.infra.scheduler.ray:RayScheduler", "_fork_single_worker")}
_ENTRY = re.compile(r"([\w.]+)(\([^()]*\))?")


def entries(contract: str) -> dict[str, tuple[str, ...]]:
    """Of one class: names, each with the signatures that it may have, if it has any."""
    found: dict[str, tuple[str, ...]] = {}
    for name, signature in _ENTRY.findall(contract):
        known = (re.sub(r"\s+", " ", signature),) if signature else ()
        found[name] = found.get(name, ()) + known
    return found


def check(owner: str) -> None:
    """Refuse a class that isn't as this package was written against.

    Raises
    ------
    ChangedUpstream
        With what differs first.
    """
    dot = "" if owner.endswith(":") else "."
    for name, signatures in entries(CONTRACTS[owner]).items():
        if (owner, name) in NEWER and not hasattr(expect(owner), name):
            continue
        if name.startswith("self."):
            expect_inside(f"{owner}.__init__", name.removeprefix("self."))
        else:
            expect(f"{owner}{dot}{name}", *signatures)


def check_upstream() -> None:
    """Refuse what isn't as expected of all that this process has imported.

    Raises
    ------
    UserError
        An AReaL of an unknown number or launcher; or what differs first.
    """
    installed()
    for owner in CONTRACTS:
        if owner.partition(":")[0] in sys.modules:
            check(owner)
    for place, digests in REIMPLEMENTED.items():
        if place.partition(":")[0] in sys.modules:
            expect_code(place, *digests)
