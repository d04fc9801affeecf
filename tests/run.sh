#!/usr/bin/env bash
# Run the tests and the style checks. Arguments go to pytest: --long adds tests that take minutes,
# -k NAME picks tests.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../environment.sh"

locked require_packages requirements-dev.txt
cd "$here"
"$python" -m ruff check .
"$python" -m ruff format --check .
# The processes share the cores: threads of their own would only wait for one another.
export OMP_NUM_THREADS=1
processes=(--numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder)
exec "$python" -m pytest "${processes[@]}" "$@"
