controller=(apptainer exec ${gpu_option:+"$gpu_option"} --no-home)
controller+=(--bind "$mounts" --pwd "$PWD" "$image")
printf -v AREAL_CPPO_STEP_PREFIX '%q ' "${controller[@]}"
export AREAL_CPPO_STEP_PREFIX # what the steps are started in
