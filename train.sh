#!/usr/bin/env bash
# Train on --training_dataset_path FOLDER; without it, on demo strips, which are made first. Uses
# the full preset with CUDA and the small one without. Accepts every flag of trainer.py; these
# override the presets. NPROC=8 bash train.sh trains on eight GPUs; --resume continues the last run.
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"

make_demo_strips() {
    [ -d "$here/dataset/demo/train/good" ] ||
        "$python" "$here/prepare_dataset.py" demo --output "$here/dataset/demo"
}

# names_a_run ARGUMENT...: whether --resume is among the arguments and followed by a path.
names_a_run() {
    local argument previous=
    for argument; do
        case $previous$argument in --resume--*) ;; --resume?*) return 0 ;; esac
        previous=$argument
    done
    return 1
}

# registers ARGUMENT...: whether references are registered, as a weighting needs: the last --align
# among the arguments is not none.
registers() {
    local argument previous='' align=fine
    for argument; do
        case $previous$argument in --align=*) align=${argument#*=} ;; esac
        if [ "$previous" = --align ]; then align=$argument; fi
        previous=$argument
    done
    [ "$align" != none ]
}

describe_gpu='import torch
if torch.cuda.is_available():
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    print("GPU with bfloat16" if has_bfloat16 else "GPU")'

settings=()
if ! names_a_run "$@"; then # a named run continues in its own folder
    settings+=(--checkpoint_path "$here/checkpoints")
fi
if ! given --resume "$@"; then # a resumed run keeps its own settings
    settings+=(--image_type strip --bs 16 --num_defects_range 4 10)
    settings+=(--cache_size 100 --seed 42 --recipe robust --arch difference)
    settings+=(--align fine)
    if registers "$@"; then settings+=(--weighting likelihood); fi
    case $("$python" -c "$describe_gpu") in
    "GPU with bfloat16") settings+=(--base_channels 64 --epochs 30 --amp) ;;
    GPU*) settings+=(--base_channels 64 --epochs 30) ;;
    *) settings+=(--base_channels 16 --epochs 10) ;;
    esac
    if ! given --training_dataset_path "$@" && ! asks_for_help "$@"; then
        locked make_demo_strips
        settings+=(--training_dataset_path "$here/dataset/demo/train/good")
    fi
fi
launcher=()
if [ "${NPROC:-1}" != 1 ]; then
    launcher=("$here/training/launch.py" "$NPROC")
fi
exec "$python" "${launcher[@]}" "$here/trainer.py" "${settings[@]}" "$@"
