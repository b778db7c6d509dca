# shellcheck shell=bash
# Functions for the scripts beside this file. They expect bash with `set -euo pipefail`.

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

# Print the path of a Python from 3.10 on: python3 if it is one, else the newest pythonX.Y.
find_python() {
    local name
    for name in python3 python3.{19..10}; do
        if command -v "$name" >/dev/null &&
            "$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    fail "Python 3.10 or newer is needed, and there is none on the PATH." \
        "Install it (on Debian and Ubuntu: apt-get install python3), then try again."
}

# Make a virtual environment with pip in a folder, unless a working one is there.
make_venv() {
    local dir=$1 python
    if "$dir/bin/python" -m pip --version >/dev/null 2>&1; then
        return
    fi
    python=$(find_python)
    rm -rf "$dir" # what an interrupted run, or a Python that is gone, left behind
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        install_venv_module "$python"
    fi
    "$python" -m venv "$dir"
}

# Debian and Ubuntu package what makes virtual environments apart from Python.
install_venv_module() {
    local package
    package=$(basename "$1")-venv
    if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
        fail "$1 lacks the module ensurepip, and can make no virtual environment." \
            "Install it (on Debian and Ubuntu, as root: apt-get install $package), then try again."
    fi
    echo "Installing $package ..."
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package" >/dev/null
}
