#!/usr/bin/env bash
# Run the tests and the style checks. Arguments go to pytest: --long adds what takes minutes, -k NAME picks tests.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../environment.sh"

locked require_packages requirements-dev.txt
cd "$here"
"$python" -m ruff check .
"$python" -m ruff format --check .
export OMP_NUM_THREADS=1 # the processes share the cores: threads of theirs would only wait for one another
exec "$python" -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
