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
