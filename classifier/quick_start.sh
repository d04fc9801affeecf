#!/usr/bin/env bash
# From nothing to a classifier, with pictures: draws a dummy set, trains in two stages on ImageNet's
# weights, classifies the test pictures and exports the network. Accepts every flag of
# train_defect_model.py but --data_root and --save_dir, which are fixed here; --resume goes on after
# an interruption, --overwrite begins again.
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../environment.sh"
locked require_packages requirements-imagenet.txt

data="$here/dataset/quick_start"
run="$here/checkpoints/quick_start"
if given --data_root "$@" || given --save_dir "$@"; then
    echo "error: found --data_root or --save_dir, expected neither: the data set is $data" >&2
    exit 2
fi
if asks_for_help "$@"; then exec "$python" "$here/classifier/train_defect_model.py" --help; fi

draw_pictures() {
    [ -d "$data" ] ||
        "$python" "$here/classifier/prepare_defect_data.py" dummy --output_dir "$data" \
            --num_defect 240 --num_normal 120
}

locked draw_pictures
"$python" "$here/classifier/train_defect_model.py" --data_root "$data" --save_dir "$run" \
    --two_stages --backbone efficientnet_lite0 --stage1_epochs 5 \
    --epochs 30 --lr 1e-3 --batch_size 8 "$@"
"$python" "$here/classifier/inference_defect_model.py" --checkpoint "$run" \
    --image_dir "$data/test" --output_dir "$here/output/quick_start"
"$python" "$here/classifier/export_defect_model.py" --checkpoint "$run" \
    --output_path "$here/onnx_models/quick_start.onnx"
