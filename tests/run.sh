#!/usr/bin/env bash
# Run the tests and the style checks. Arguments go to pytest: --long adds tests that take minutes,
# -k NAME picks tests. With --scale only the tests of object storage, clusters and searches run, in
# an environment of their own, .venv-scale.
set -euo pipefail
requirements=requirements-dev.txt
for argument; do
    if [ "$argument" = --scale ]; then
        requirements=requirements-scale-dev.txt
        set -- tests/scale "$@"
        # shellcheck disable=SC2034  # environment.sh reads it
        venv_name=.venv-scale
    fi
done
source "$(dirname "${BASH_SOURCE[0]}")/../environment.sh"

locked require_packages "$requirements"
cd "$here"
"$python" -m ruff check .
"$python" -m ruff format --check .
# The processes share the cores: threads of their own would only wait for one another.
export OMP_NUM_THREADS=1
processes=(--numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder)
exec "$python" -m pytest "${processes[@]}" "$@"
