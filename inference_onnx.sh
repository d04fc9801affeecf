#!/usr/bin/env bash
# Score strips with the ONNX file of the newest best checkpoint, which is exported first where that
# has not been done yet. Every flag of inference_onnx.py may follow and wins.
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"

if ! given --model_path "$@" && ! given --doctor "$@" && ! asks_for_help "$@"; then
    "$python" "$here/export_onnx_fullimage.py" --skip_existing \
        --checkpoint_path "$here/checkpoints" --output_path "$here/onnx_models"
fi
exec "$python" "$here/inference_onnx.py" \
    --model_path "$here/onnx_models" --output_dir "$here/output/onnx" "$@"
