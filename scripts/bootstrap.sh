#!/usr/bin/env bash
# Makes what the project runs in. `make` calls it; each word below may also be said by hand.
#
#   scripts/bootstrap.sh tools      pip and uv, pinned, into .tools/
#   scripts/bootstrap.sh run        .venv with what the server needs, and the project itself (editable)
#   scripts/bootstrap.sh dev        .venv with exactly what the lock file for developers says, and the project;
#                                   gcc and Python's headers too, where they are missing and may be installed
#   scripts/bootstrap.sh system     the Debian packages that the tests use
#   scripts/bootstrap.sh lock       the lock files anew; `lock --upgrade` takes the newest releases
#
# Only wheels whose hashes are in requirements/*.lock are installed, so that nothing unpinned is fetched or built.
# Package indexes and certificates are those pip was told of (PIP_INDEX_URL, PIP_CERT, pip.conf).
# PYTHON=… names the Python to use; otherwise python3 is, or the newest python3.x that is new enough.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=
readonly POLICY=/usr/sbin/policy-rc.d

fail() {
    printf 'stat7store: %s\n' "$*" >&2
    exit 1
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

version_of() {
    "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null || echo "no Python"
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if new_enough "$candidate"; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    fail "Python 3.11 or newer is needed; ${PYTHON:-python3} is $(version_of "${PYTHON:-python3}")." \
        "Install one (Debian 12 and later: apt-get install python3), or name it: make PYTHON=/path/to/python3.11 …"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

may_install() {
    { command -v apt-get && as_root true; } >/dev/null 2>&1
}

install_debian() {
    if ! may_install; then
        fail "please install: $* (on Debian: sudo apt-get install $*), then try again"
    fi
    echo "Installing Debian packages: $*"
    # The packages' own services stay down: the tests start what they need on ports of their own.
    if [ ! -e "$POLICY" ]; then
        trap 'as_root rm -f "$POLICY"' EXIT
        as_root sh -c "printf '#!/bin/sh\nexit 101\n' >$POLICY && chmod +x $POLICY"
    fi
    as_root apt-get -qq update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "$@" >/dev/null
}

# Debian's python3 may come without pip, without ensurepip, or without both.
install_tools() {
    python=$(find_python)
    local pip=$python
    rm -rf .tools
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        if "$python" -m venv .tools/venv >/dev/null 2>&1; then
            pip=.tools/venv/bin/python
        else
            install_debian python3-pip
            "$pip" -m pip --version >/dev/null 2>&1 || fail "$python has no pip; please install one for it, then try again"
        fi
    fi
    PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 \
        "$pip" -m pip install --quiet --require-hashes --no-deps --only-binary=:all: --target .tools \
        -r requirements/tools.lock
    rm -rf .tools/venv
}

# uv does not read pip's configuration: say to it what pip was told.
hand_over() {
    local told name value
    python=$(find_python)
    told=$("$python" .tools/pip config list)
    pip_setting() {
        for name in ":env:" install global; do
            value=$(sed -n "s/^$name\.$1='\(.*\)'$/\1/p" <<<"$told")
            if [ -n "$value" ]; then
                echo "$value"
                return
            fi
        done
    }
    local index certificates
    index=$(pip_setting index-url)
    certificates=$(pip_setting cert)
    if [ -n "$index" ]; then export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}; fi
    if [ -n "$certificates" ]; then export SSL_CERT_FILE=${SSL_CERT_FILE:-$certificates}; fi
    if [ -e /etc/ssl/certs/ca-certificates.crt ]; then export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-true}; fi
    export UV_PYTHON_DOWNLOADS=never UV_NO_PROGRESS=true
}

uv() {
    .tools/bin/uv "$@"
}

make_venv() {
    if ! new_enough .venv/bin/python; then
        uv venv --quiet --clear --python "$python" .venv
    fi
}

# With the locked build backend, not one fetched for the occasion. uv shows nothing of what the build says, and does not
# build again for a change of C alone: hatch_build.py does, and tells if it cannot.
install_project() {
    uv pip install --quiet --python .venv --no-deps --no-build-isolation --editable .
    .venv/bin/python hatch_build.py
}

# What compiles the parts in C, where it may be installed: the project does without them, the tests do not.
install_compiler() {
    local include compiler=${CC:-cc} missing=()
    include=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("include"))')
    if ! command -v "${compiler%% *}" >/dev/null; then missing+=(gcc); fi
    if [ ! -e /usr/include/stdio.h ]; then missing+=(libc6-dev); fi
    # Debian's Python has its headers in a package; any other brought its own, or none
    if [ ! -e "$include/Python.h" ] && [[ $include == /usr/include/* ]]; then missing+=("${include##*/}-dev"); fi
    if [ ${#missing[@]} -gt 0 ] && may_install; then install_debian "${missing[@]}"; fi
}

install_run() {
    hand_over
    make_venv
    uv pip install --quiet --python .venv --require-hashes --no-build \
        -r requirements/run.lock -r requirements/build.lock
    install_project
}

install_dev() {
    hand_over
    make_venv
    uv pip sync --quiet --python .venv --require-hashes --no-build requirements/dev.lock requirements/build.lock
    install_compiler
    install_project
}

install_system() {
    local pair missing=()
    PATH="$PATH:/usr/sbin:/sbin"
    for pair in nginx:nginx-light chromium:chromium strace:strace curl:curl wrk:wrk \
        ceph-mon:ceph-mon ceph-osd:ceph-osd radosgw:radosgw ceph:ceph-common mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs faketime:faketime; do
        if ! command -v "${pair%:*}" >/dev/null; then missing+=("${pair#*:}"); fi
    done
    # Playwright's own Node.js is linked against it.
    if ! ldconfig -p | grep -q 'libatomic\.so\.1 '; then missing+=(libatomic1); fi
    if [ ${#missing[@]} -gt 0 ]; then install_debian "${missing[@]}"; fi
}

compile() {
    UV_CUSTOM_COMPILE_COMMAND="make lock" \
        uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url "$@"
}

# One resolution for all: the smaller lock files take their versions from the developers'.
# hatchling needs editables to install a checkout in place.
lock() {
    hand_over
    compile pyproject.toml --group dev -o requirements/dev.lock "$@"
    compile pyproject.toml -c requirements/dev.lock -o requirements/run.lock "$@"
    compile - -c requirements/dev.lock -o requirements/build.lock "$@" <<<$'hatchling\neditables'
    compile - -o requirements/tools.lock "$@" <<<$'pip\nuv'
}

action=${1:-help}
if [ $# -gt 0 ]; then shift; fi
case $action in
tools | run | dev | system) "install_$action" ;;
lock) lock "$@" ;;
help | -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" ;;
*) fail "there is no '$action'; see scripts/bootstrap.sh help" ;;
esac
