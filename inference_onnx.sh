#!/usr/bin/env bash
# Score strips with the ONNX file of the newest best checkpoint; exports it first if it is missing.
# Accepts every flag of inference_onnx.py; these override the defaults below.
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"

if ! given --model_path "$@" && ! given --method "$@" && ! given --doctor "$@" &&
    ! asks_for_help "$@"; then
    "$python" "$here/export_onnx_fullimage.py" --skip_existing \
        --checkpoint_path "$here/checkpoints" --output_path "$here/onnx_models"
fi
model=()
if ! given --method "$@"; then model=(--model_path "$here/onnx_models"); fi
exec "$python" "$here/inference_onnx.py" "${model[@]}" --output_dir "$here/output/onnx" "$@"
