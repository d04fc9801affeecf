#!/usr/bin/env bash
# Build the C++ detector and its program: bash deploy/cpp/build.sh [PRESET] [CMAKE ARGUMENT...]
#
# PRESET is one of CMakePresets.json (default: release). The build uses the ONNX Runtime of
# ONNXRUNTIME_ROOT (a folder with include/ and lib/), else the system's, else the library of the
# Python wheel with headers of Debian's package. As root with apt-get, the script installs missing
# tools; otherwise it names them. The release is installed into build/strip_detector, a folder that
# can be copied anywhere.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
case ${1:-} in -h | --help)
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
    exit
    ;;
esac
preset=release
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
    preset=$1
    shift
fi
header=onnxruntime_cxx_api.h
newer_suite=trixie # Debian's first release with headers, which a newer library can serve

say() { echo "build.sh: $*"; }
fail() {
    echo "error: $*" >&2
    exit 1
}
can_install() { command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; }
has_tiff() { echo '#include <tiffio.h>' | c++ -E -x c++ - >/dev/null 2>&1; }

require_tools() {
    local missing=()
    command -v cmake >/dev/null || missing+=(cmake)
    command -v c++ >/dev/null || missing+=(g++)
    command -v make >/dev/null || command -v ninja >/dev/null || missing+=(make)
    has_tiff || missing+=(libtiff-dev)
    if [ ${#missing[@]} = 0 ]; then return; fi
    can_install ||
        fail "found no ${missing[*]}, expected them to be installed" \
            "(apt-get install ${missing[*]})"
    say "installing ${missing[*]}"
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install --no-install-recommends "${missing[@]}" >/dev/null
}

# Prints the folder of the Python wheel's libraries; nothing where there is no wheel.
wheel_folder() {
    local candidate python="$here/../../.venv/bin/python"
    local program='from importlib.util import find_spec
print(find_spec("onnxruntime").submodule_search_locations[0] + "/capi")'
    for candidate in "$python" python3; do
        "$candidate" -c "$program" 2>/dev/null && return
    done
}

# fetch_headers FOLDER: unpacks the headers into FOLDER/include, from a newer suite of the archive
# that this system was installed from. Installs nothing.
fetch_headers() {
    local folder=$1 uri keys=/usr/share/keyrings/debian-archive-keyring.gpg apt
    local wanted="expected ONNXRUNTIME_ROOT=FOLDER with include/$header"
    if [ -e "$folder/include/$header" ]; then return; fi
    command -v apt-get >/dev/null || fail "found no headers of ONNX Runtime, $wanted"
    uri=$(apt-get indextargets --format '$(COMPONENT) $(REPO_URI)' 'Created-By: Packages' \
        2>/dev/null |
        awk '$1 == "main" && $2 ~ /debian\/$/ { print $2; exit }')
    [ -n "$uri" ] || fail "found no Debian archive among apt's sources, $wanted"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
    echo "deb [signed-by=$keys] $uri $newer_suite main" >"$work/sources.list"
    apt=(apt-get -qq -o "Dir::State=$work" -o "Dir::State::Lists=$work/lists"
        -o "Dir::Cache=$work/cache" -o "Dir::Etc::SourceList=$work/sources.list"
        -o Dir::Etc::SourceParts=- -o APT::Sandbox::User=)
    say "fetching the headers of ONNX Runtime from $newer_suite's libonnxruntime-dev"
    (cd "$work" && "${apt[@]}" update && "${apt[@]}" download libonnxruntime-dev &&
        dpkg-deb -x libonnxruntime-dev_*.deb unpacked) ||
        fail "found no libonnxruntime-dev to fetch, $wanted"
    rm -rf "$folder/include"
    mv "$work/unpacked/usr/include/onnxruntime" "$folder/include"
}

# Makes a folder like an unpacked release of ONNX Runtime: the wheel's libraries, under the names
# that a linker looks for, and headers.
lay_out_wheel() {
    local folder="$here/build/onnxruntime" capi library
    capi=$(wheel_folder) || true
    library=$(compgen -G "$capi/libonnxruntime.so.*" | head -n 1) ||
        fail "found no ONNX Runtime, expected ONNXRUNTIME_ROOT=FOLDER, a system package or the" \
            "Python wheel (pip install onnxruntime)"
    mkdir -p "$folder"
    fetch_headers "$folder"
    rm -rf "$folder/lib"
    mkdir "$folder/lib"
    ln -s "$capi"/libonnxruntime* "$folder/lib/"
    ln -s "$(basename "$library")" "$folder/lib/libonnxruntime.so.1"
    ln -s libonnxruntime.so.1 "$folder/lib/libonnxruntime.so"
    say "ONNX Runtime: $library"
}

require_tools
if [ -n "${ONNXRUNTIME_ROOT:-}" ]; then
    root=$(realpath -e "$ONNXRUNTIME_ROOT") ||
        fail "found no folder $ONNXRUNTIME_ROOT, expected one with include/ and lib/"
    say "ONNX Runtime: $root"
    set -- "-DONNXRuntime_ROOT=$root" "$@"
elif [ -n "$(find /usr/include/onnxruntime* /usr/local/include/onnxruntime* -name "$header" \
    2>/dev/null)" ]; then
    say "ONNX Runtime: the system's"
    set -- -DONNXRuntime_ROOT= "$@"
else
    lay_out_wheel
fi
cd "$here"
# -U: the cache of an earlier build may name another ONNX Runtime
cmake --preset "$preset" --log-level=WARNING \
    -U ONNXRuntime_LIBRARY -U ONNXRuntime_INCLUDE_DIR "$@"
cmake --build --preset "$preset" --parallel "$(nproc)"
if [ "$preset" != release ]; then
    say "built in $here/build/$preset"
    exit
fi
rm -rf build/strip_detector
cmake --install build/release --prefix build/strip_detector >/dev/null
say "installed in $here/build/strip_detector;" \
    "next: deploy/cpp/build/strip_detector/bin/strip_detect MODEL.onnx STRIP.tiff"
