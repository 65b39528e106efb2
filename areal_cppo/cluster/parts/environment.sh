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
