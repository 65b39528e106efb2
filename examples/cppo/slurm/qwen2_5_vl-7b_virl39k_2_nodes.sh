#!/bin/bash
# CPPO on 2 nodes, 8 GPUs each. Written by:
#   areal-cppo slurm --config configs/qwen2_5_vl-7b_virl39k.yaml --nodes 2 actor.backend=fsdp:d8 rollout.backend=sglang:d8 actor.mb_spec.max_tokens_per_mb=16384
#
# trainer: node 1, 8 process(es), 8 GPU(s)
# generation: node 2, 8 server(s), 8 GPU(s)
#SBATCH --job-name=qwen2-5-vl-7b-virl39k
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --gres=gpu:8
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --export=ALL
#SBATCH --output=logs/%x-%j.out
set -euo pipefail

config=configs/qwen2_5_vl-7b_virl39k.yaml
run_dir=runs/"$SLURM_JOB_NAME-$SLURM_JOB_ID"
settings=(
    cluster.n_nodes=2
    scheduler.type=allocation
    recover.mode=on
    actor.backend=fsdp:d8
    rollout.backend=sglang:d8
    actor.mb_spec.max_tokens_per_mb=16384
)
max_restarts=10
export AREAL_CPPO_GENERATION_NODES=1

cd "$SLURM_SUBMIT_DIR"

# Environment: sbatch --export=ALL brought that of the submission, the steps inherit all.
attempt=${SLURM_RESTART_COUNT:-0}
export PYTHONUNBUFFERED=1
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun takes it from there only
# Names of network interfaces are the site's: set NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME
# and NCCL_IB_HCA before sbatch, or here.
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
export NCCL_CUMEM_ENABLE=${NCCL_CUMEM_ENABLE:-0} # else weights don't reach SGLang
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0}
export TORCH_NCCL_ASYNC_ERROR_HANDLING=1
# Compiled kernels: on each node's own disk, a folder a job.
cache=${TMPDIR:-/tmp}/areal-cppo-$SLURM_JOB_ID
export AREAL_CACHE_DIR=$cache
export TRITON_CACHE_DIR=$cache/triton
export TORCHINDUCTOR_CACHE_DIR=$cache/inductor

controller=() # before the controller's command: no container

say() { echo "[$(date +%FT%T)] job $SLURM_JOB_ID, attempt $attempt: $*"; }

why='' train=''
# USR1 comes some minutes before the time limit: the run ends its step, writes a
# checkpoint and exits. The file reaches it in any container.
trap 'why=USR1; say "USR1: asked for a checkpoint"; touch "$run_dir/STOP"' USR1
# TERM comes with scancel and preemption, to the steps as well: their last checkpoint
# counts. A preempted job is queued again by Slurm, a cancelled one by nobody.
trap 'why=TERM; say "TERM"; kill -TERM ${train:+"$train"} 2>/dev/null || true' TERM

mkdir -p "$run_dir"
rm -f "$run_dir/STOP" # of an earlier attempt
say "nodes $SLURM_JOB_NODELIST, run folder $run_dir"
# Bash before 4.4 takes an array that is still empty for an unset variable.
controller+=(areal-cppo train --config "$config" "run_dir=$run_dir" "${settings[@]}")
"${controller[@]}" &
train=$!
if [[ $why == TERM ]]; then # it came before there was anything to end
    kill -TERM "$train" 2>/dev/null || true
fi
while kill -0 "$train" 2>/dev/null; do
    wait "$train" || true # a signal ends the wait, not the run
done
status=0
wait "$train" || status=$?

requeue() {
    local state
    state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T || true)
    if [[ $why == TERM || $state != RUNNING ]]; then
        say "$1; the job is $state and not queued again from here"
    elif ((attempt >= max_restarts)); then
        say "$1; not queued again: $max_restarts restarts are the limit"
    else
        say "$1; queued again"
        trap '' TERM USR1
        scontrol requeue "$SLURM_JOB_ID" && sleep 300 # Slurm ends it meanwhile
    fi
}

case $status in
0) say "finished" ;;
2) say "a mistake of the configuration (see above): not queued again" ;;
75)
    if [[ $why == USR1 ]]; then
        requeue "stopped before the time limit"
    else
        say "stopped on request: submit again with run_dir=$run_dir to go on"
    fi
    ;;
130 | 143) say "ended by a signal (status $status)" ;;
*) requeue "failed with status $status" ;;
esac
exit "$status"
