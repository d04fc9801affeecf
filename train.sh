#!/usr/bin/env bash
# Train on --training_dataset_path FOLDER; without it, on demo strips, which are made first. Accepts
# every flag of trainer.py, whose defaults are the full preset with CUDA and the small one without.
# NPROC=8 bash train.sh trains on eight GPUs; --resume continues the last run. NNODES and RENDEZVOUS
# train on several machines: docs/how-to/several-machines.md.
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"

make_demo_strips() {
    [ -d "$here/dataset/demo/train/good" ] ||
        "$python" "$here/prepare_dataset.py" demo --output "$here/dataset/demo"
}

settings=()
if ! names_a_run "$@"; then # a named run continues in its own folder
    settings+=(--checkpoint_path "$here/checkpoints")
fi
if ! given --resume "$@" && ! given --training_dataset_path "$@" && ! asks_for_help "$@"; then
    locked make_demo_strips
    settings+=(--training_dataset_path "$here/dataset/demo/train/good")
fi
launcher=()
if [ "${NPROC:-1}" != 1 ] || [ "${NNODES:-1}" != 1 ]; then
    launcher=("$here/training/launch.py" "${NPROC:-1}")
fi
exec "$python" "${launcher[@]}" "$here/trainer.py" "${settings[@]}" "$@"
