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

# Examples

# Fail, saying why, unless a port can be had: check_port PORT, the value of VARIABLE, for a script.
check_port() {
    local port=$1 variable=$2 script=$3
    if ! [[ $port =~ ^[1-9][0-9]{0,4}$ ]] || ((port > 65535)); then
        fail "$variable is a number from 1 to 65535, not \"$port\"."
    fi
    "$(find_python)" - "$@" <<'PYTHON'
import socket, sys

port, variable, script = int(sys.argv[1]), sys.argv[2], sys.argv[3]
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
try:
    listener.bind(("127.0.0.1", port))
    listener.listen()
except OSError as error:
    sys.exit(
        f"Port {port} cannot be had ({error.strerror}). Is another one running? Choose another "
        f"port: {variable}={port + 1 if 1024 <= port < 65535 else 8001} {script}"
    )
PYTHON
}

# Have a virtual environment with the package and daphne in a folder.
install_package() {
    local venv=$1 wanted
    make_venv "$venv"
    # What is installed where, so that only a change of it costs time.
    wanted="$root $("$venv/bin/python" -VV) $(cksum <"$root/setup.py")"
    if [[ $(cat "$venv/installed" 2>/dev/null) != "$wanted" ]]; then
        echo "Installing django-eventstream and daphne into ${venv#"$root/"} ..."
        # Debian's pip would otherwise warn of its old way to build packages.
        PIP_USE_PEP517=1 "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
            -e "${root}[daphne]"
        printf '%s\n' "$wanted" >"$venv/installed"
    fi
}

# Print the address as soon as there is something to see: announce NAME PORT.
announce() {
    until (: <"/dev/tcp/127.0.0.1/$2") 2>/dev/null; do
        kill -0 $$ 2>/dev/null || return
        sleep 0.1
    done
    printf '\n    %s: http://127.0.0.1:%s/    (Ctrl-C ends it)\n\n' "$1" "$2"
}
