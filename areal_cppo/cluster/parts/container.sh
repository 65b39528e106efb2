# The controller starts steps from inside the container: it needs Slurm's clients there,
# their plugins and settings, and munge's socket. Add what your site has elsewhere.
for path in "${SLURM_CONF:-/etc/slurm}" /run/munge /usr/lib64/slurm \
    /usr/lib/x86_64-linux-gnu/slurm-wlm /usr/lib64/libmunge.so.2 \
    /usr/lib/x86_64-linux-gnu/libmunge.so.2 "$(command -v srun)" \
    "$(command -v scontrol)" "$(command -v squeue)" "$(command -v scancel)"; do
    if [[ -e $path ]]; then
        mounts=${mounts:+$mounts,}$path:$path
    fi
done
