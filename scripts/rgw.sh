#!/usr/bin/env bash
# Runs a real S3 server on loopback, for tests: a RADOS Gateway before a Ceph cluster that lives in memory.
#
#   scripts/rgw.sh up DIR [PORT]    start it and print its address; DIR is new or empty, PORT is a free one if not given
#   scripts/rgw.sh down DIR         stop all of it and remove DIR; repeats are harmless
#
# It holds 3 GiB at most, or RGW_BYTES; what is deleted gives its room back some seconds later.
# Debian packages: ceph-mon ceph-osd radosgw ceph-common curl. Any number of them run at once, each in a folder of its
# own. Two users have keys, region us-east-1, buckets in the path:
#   test, secret testtest       owns what it makes, and may set the policies of users (IAM)
#   guest, secret guestguest    may do nothing until a policy says so
set -euo pipefail
readonly PACKAGES='ceph-mon ceph-osd radosgw ceph-common curl'
readonly TRIES=3
PATH="$PATH:/usr/sbin:/sbin"

fail() {
    printf 'rgw: %s\n' "$*" >&2
    exit 1
}

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
}

need() {
    local command
    for command in ceph ceph-authtool ceph-mon ceph-osd curl monmaptool radosgw radosgw-admin; do
        command -v "$command" >/dev/null ||
            fail "$command is missing; on Debian: apt-get install --no-install-recommends $PACKAGES"
    done
}

uuid() {
    cat /proc/sys/kernel/random/uuid
}

answers() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# Below the ports that the kernel gives to outgoing connections.
free_port() {
    local port
    for _ in $(seq 100); do
        port=$((20000 + RANDOM % 12000))
        if ! answers "$port"; then
            echo "$port"
            return
        fi
    done
    fail "no free port was found"
}

configure() {
    local monitor=$1 gateway=$2
    mkdir -p "$dir"/{mon,osd,rgw,log}
    cat >"$dir/ceph.conf" <<CONF
[global]
fsid = $(uuid)
mon host = [v2:127.0.0.1:$monitor]
mon initial members = a
public addr = 127.0.0.1
ms bind ipv6 = false
ms bind msgr1 = false
keyring = $dir/keyring
run dir = $dir
log file = $dir/log/\$name.log
pid file = $dir/\$name.pid
admin socket =
osd objectstore = memstore
memstore device bytes = ${RGW_BYTES:-3221225472}
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon data avail warn = 2
mon data avail crit = 1
[mon.a]
mon data = $dir/mon
[osd.0]
osd data = $dir/osd
[client.rgw]
rgw data = $dir/rgw
rgw frontends = beast endpoint=127.0.0.1:$gateway
rgw enable usage log = false
rgw run sync thread = false
rgw override bucket index max shards = 1
rgw gc obj min wait = 5
rgw gc processor period = 5
rgw gc processor max time = 5
CONF
    export CEPH_CONF="$dir/ceph.conf" CEPH_ARGS="-c $dir/ceph.conf"
    local name
    ceph-authtool --create-keyring "$dir/keyring" --gen-key -n mon. --cap mon 'allow *'
    for name in client.admin client.rgw osd.0; do
        ceph-authtool "$dir/keyring" --gen-key -n "$name" --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
    done
    monmaptool --create --fsid "$(sed -n 's/^fsid = //p' "$dir/ceph.conf")" --addv a "[v2:127.0.0.1:$monitor]" \
        "$dir/monmap"
}

# A conf file named on the command line tells these processes from all others.
start() {
    local conf=$dir/ceph.conf osd gateway=$1
    osd=$(uuid)
    ceph-mon -c "$conf" -i a --mkfs --monmap "$dir/monmap" --keyring "$dir/keyring" &&
        ceph-mon -c "$conf" -i a &&
        timeout 60 ceph osd new "$osd" &&
        ceph-osd -c "$conf" -i 0 --mkfs --osd-uuid "$osd" &&
        ceph-osd -c "$conf" -i 0 &&
        timeout 90 radosgw -c "$conf" -n client.rgw &&
        await "$gateway" &&
        add_user test testtest --caps='user-policy=*' &&
        add_user guest guestguest
}

await() {
    local deadline=$((SECONDS + 90))
    until curl -s -o "$dir/answer" "http://127.0.0.1:$1/" && grep -q ListAllMyBucketsResult "$dir/answer"; do
        [ -n "$(running)" ] && [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.2
    done
}

add_user() {
    local name=$1 secret=$2
    shift 2
    timeout 60 radosgw-admin -c "$dir/ceph.conf" -n client.rgw user create --uid="$name" --display-name="$name" \
        --access-key="$name" --secret-key="$secret" "$@"
}

running() {
    local file pid
    for file in "$dir"/*.pid; do
        if pid=$(cat "$file" 2>/dev/null) && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$dir/ceph.conf"
        then echo "$pid"; fi
    done
}

# Nothing of it is worth a graceful end.
stop() {
    local pids
    for _ in $(seq 100); do
        pids=$(running)
        if [ -z "$pids" ]; then return; fi
        # shellcheck disable=SC2086
        kill -KILL $pids 2>/dev/null || true
        sleep 0.05
    done
    fail "these processes do not end: $pids"
}

up() {
    need
    if [ -d "$dir" ] && [ -n "$(ls -A "$dir")" ]; then fail "$dir is not empty; name a new folder"; fi
    if [ -n "$asked" ] && answers "$asked"; then fail "port $asked is taken"; fi
    local try gateway
    mkdir -p "$dir"
    trap 'stop' EXIT
    # Another program may take a port between its choice and its use.
    for try in $(seq "$TRIES"); do
        rm -rf "${dir:?}"/*
        gateway=${asked:-$(free_port)}
        configure "$(free_port)" "$gateway" >"$dir/up.log" 2>&1
        if start "$gateway" >>"$dir/up.log" 2>&1 </dev/null; then
            trap - EXIT
            echo "http://127.0.0.1:$gateway"
            return
        fi
        stop
    done
    tail -n 20 "$dir/up.log" "$dir"/log/*.log >&2 || true
    fail "it did not start, $TRIES times; its logs are in $dir"
}

down() {
    if [ ! -d "$dir" ]; then return; fi
    if [ -n "$(ls -A "$dir")" ] && [ ! -e "$dir/ceph.conf" ]; then fail "$dir holds something else"; fi
    stop
    rm -rf "$dir"
}

if [ $# -lt 2 ]; then
    usage >&2
    exit 1
fi
dir=$(realpath -m "$2")
asked=${3:-}
case $1 in
up | down) "$1" ;;
*) fail "there is no '$1'; say up or down" ;;
esac
