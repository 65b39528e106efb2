options=(--container-image="$image" --container-mounts="$mounts")
options+=(--no-container-mount-home --container-workdir="$PWD")
printf -v AREAL_CPPO_SRUN_OPTIONS '%q ' "${options[@]}"
export AREAL_CPPO_SRUN_OPTIONS # what the steps are started with
controller=(srun --nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" --overlap --exact)
controller+=("${options[@]}")
