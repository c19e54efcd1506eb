#!/bin/sh
# What the image is built with, and what the tests run without an image:
#
#   docker/install.sh compiler              what compiles the parts in C, if it is missing
#   docker/install.sh dependencies PREFIX   a virtual environment with the locked dependencies
#   docker/install.sh project PREFIX        builds the wheel and puts it in
#
# Runs in the folder that holds pyproject.toml. Only wheels whose hashes are locked are installed.
# PIP says how to call pip; it needs not be in the environment that is made.
set -eu

: "${PIP:=python -m pip}"
step=$1
prefix=${2-}

locked() {
    $PIP --python "$1/bin/python" install --quiet --no-deps --only-binary=:all: --require-hashes -r "requirements/$2.lock"
}

case $step in
compiler)
    if ! command -v cc >/dev/null; then
        apt-get -qq update
        DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends gcc libc6-dev >/dev/null
    fi
    ;;
dependencies)
    python -m venv --without-pip "$prefix"
    locked "$prefix" run
    ;;
project)
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    python -m venv --without-pip "$scratch/build"
    locked "$scratch/build" build
    $PIP --python "$scratch/build/bin/python" wheel --quiet --no-deps --no-build-isolation --wheel-dir "$scratch" .
    $PIP --python "$prefix/bin/python" install --quiet --no-deps "$scratch"/*.whl
    (cd / && "$prefix/bin/python" -c 'from storage import compiled; assert not compiled.missing(), compiled.missing()')
    ;;
*)
    echo "docker/install.sh: there is no step '$step'" >&2
    exit 2
    ;;
esac
