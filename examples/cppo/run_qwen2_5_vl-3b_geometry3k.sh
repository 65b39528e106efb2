#!/usr/bin/env bash
# CPPO, Qwen2.5-VL-3B on Geometry3K: one node of 8 GPUs of 80 GB.
#
#   run_qwen2_5_vl-3b_geometry3k.sh --dry-run                # check, start nothing
#   run_qwen2_5_vl-3b_geometry3k.sh run_dir=/big/disk/run    # any setting as key=value
#
# The run's folder is made where you are. PYTHON names the interpreter.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
exec "${PYTHON:-python3}" "$here/train.py" \
    --config "$here/../../configs/qwen2_5_vl-3b_geometry3k.yaml" "$@"
