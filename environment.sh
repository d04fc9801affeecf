# shellcheck shell=bash
# The wrappers source this file. It makes the virtual environment .venv beside it, once for each
# version of requirements.txt, and leaves the interpreter in $python and this folder in $here.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python="$here/.venv/bin/python"
export PYTHONUNBUFFERED=1 # lines appear when they are printed, through a pipe too

# given FLAG ARGUMENT...: whether the flag is among the arguments.
given() {
    local flag=$1 argument
    shift
    for argument; do
        case $argument in "$flag" | "$flag"=*) return 0 ;; esac
    done
    return 1
}

# asks_for_help ARGUMENT...: then nothing should be built first.
asks_for_help() { given --help "$@" || given -h "$@"; }

# Prints the first interpreter that is new enough.
find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: found no Python 3.11 or newer, expected python3 on the PATH" >&2
    return 1
}

# require_packages FILE: installs what a requirements file lists, unless that list is installed.
require_packages() {
    local stamp="$here/.venv/installed-$1" interpreter
    if cmp -s "$here/$1" "$stamp"; then return; fi
    echo "installing the packages of $1 into $here/.venv (some minutes, once)" >&2
    if ! [ -x "$python" ]; then
        interpreter=$(find_python)
        if ! "$interpreter" -m venv "$here/.venv"; then
            rm -rf "$here/.venv" # without pip it would look complete the next time
            return 1
        fi
    fi
    "$python" -m pip install --quiet --disable-pip-version-check -r "$here/$1"
    cp "$here/$1" "$stamp"
}

# locked COMMAND...: runs it once at a time, where the system has flock: a second wrapper waits.
locked() {
    (
        if command -v flock >/dev/null; then
            exec 9>"$here/.setup.lock"
            flock 9
        fi
        "$@"
    )
}

locked require_packages requirements.txt
