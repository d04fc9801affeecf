#!/usr/bin/env bash
# Score strips with the newest best checkpoint. Accepts every flag of inference_pytorch.py; these
# override the defaults below.
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"

model=()
if ! given --method "$@"; then model=(--model_path "$here/checkpoints"); fi
exec "$python" "$here/inference_pytorch.py" "${model[@]}" --output_dir "$here/output/pytorch" "$@"
