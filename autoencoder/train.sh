#!/usr/bin/env bash
# Train the reference-free detector on --training_dataset_path ROOT; without it, on the textures,
# which are made first. Then build a feature library and score test/ of that data set. Accepts every
# flag of python -m autoencoder.trainer, whose defaults are the small preset without CUDA.
# NPROC=8 bash autoencoder/train.sh trains on eight GPUs; --resume continues the last run.
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../environment.sh"
locked require_packages requirements-autoencoder.txt

make_textures() {
    [ -d "$here/dataset/textures" ] ||
        "$python" "$here/prepare_dataset.py" textures --output "$here/dataset/textures"
}

settings=()
if ! names_a_run "$@"; then # a named run continues in its own folder
    settings+=(--checkpoint_path "$here/checkpoints/autoencoder")
fi
if ! given --resume "$@" && ! given --training_dataset_path "$@" && ! asks_for_help "$@"; then
    locked make_textures
    settings+=(--training_dataset_path "$here/dataset/textures")
fi
launcher=()
if [ "${NPROC:-1}" != 1 ]; then
    launcher=("$here/training/launch.py" "$NPROC")
fi
# the packages are those of this folder, whatever lies in the one that the user is in
export PYTHONSAFEPATH=1 PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" "${launcher[@]}" -m autoencoder.train_and_score "${settings[@]}" "$@"
