# shellcheck shell=bash
# The wrappers source this file. It makes the virtual environment .venv beside itself, once for each
# version of requirements.txt, and sets $python to its interpreter and $here to this folder. Where
# PYTHON names an interpreter, that one is taken with the packages that it has: none is installed.
# Who sources it may set venv_name before, to keep packages apart from those of .venv.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv="$here/${venv_name:-.venv}"
python=${PYTHON:-"$venv/bin/python"}
if [ -n "${PYTHON:-}" ]; then echo "using PYTHON, $PYTHON, with the packages that it has" >&2; fi
export PYTHONUNBUFFERED=1 # show each line when it is printed, through a pipe as well

# given FLAG ARGUMENT...: whether the flag is among the arguments.
given() {
    local flag=$1 argument
    shift
    for argument; do
        case $argument in "$flag" | "$flag"=*) return 0 ;; esac
    done
    return 1
}

# asks_for_help ARGUMENT...: whether only the help is wanted, which needs no model and no strips.
asks_for_help() { given --help "$@" || given -h "$@"; }

# names_a_run ARGUMENT...: whether --resume is among the arguments and followed by a path. `auto` is
# none: it is the run in the usual folder.
names_a_run() {
    local argument previous=
    for argument; do
        case $previous$argument in --resume--* | --resumeauto) ;; --resume?*) return 0 ;; esac
        previous=$argument
    done
    return 1
}

# Prints the first interpreter of Python 3.11 or newer.
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

# require_packages FILE: installs the packages of a requirements file, unless this version of the
# file is installed already.
require_packages() {
    local stamp="$venv/installed-$1" interpreter
    if [ -n "${PYTHON:-}" ]; then return; fi
    if cmp -s "$here/$1" "$stamp"; then return; fi
    echo "installing the packages of $1 into $venv (some minutes, once)" >&2
    # Ctrl-C in the middle of the first installation leaves an interpreter without pip
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        interpreter=$(find_python)
        if [ -e "$venv" ] || [ -L "$venv" ]; then
            echo "found no pip in $venv: moving it to $venv.old" >&2
            rm -rf "$venv.old"
            mv "$venv" "$venv.old"
        fi
        if ! "$interpreter" -m venv "$venv"; then
            rm -rf "$venv" # the next call would take one without pip for complete
            return 1
        fi
    fi
    "$python" -m pip install --quiet --disable-pip-version-check -r "$here/$1"
    cp "$here/$1" "$stamp"
}

# locked COMMAND...: runs a command under a lock, where the system has flock: a second wrapper that
# starts meanwhile waits.
locked() {
    (
        if command -v flock >/dev/null; then
            # opened to be locked alone: what a link leads to is not emptied
            if [ -L "$here/.setup.lock" ]; then
                echo "error: $here/.setup.lock: found a link, expected a file or nothing" >&2
                exit 1
            fi
            exec 9>>"$here/.setup.lock"
            flock 9
        fi
        "$@"
    )
}

locked require_packages requirements.txt
