#!/bin/bash
# Become one service of a compose project: the part of a container runtime that the tests need.
# Runs as root in mount and PID namespaces of its own. Reads its settings as shell variables from $1:
# lower (layers), work (a folder), readonly, mounts (SOURCE\tTARGET\tro|rw lines), scratch (tmpfs
# options), hosts (a file), uid, gid, envfile (NAME=VALUE, NUL-separated), argvfile (NUL-separated).
set -euo pipefail
lower='' work='' readonly='' mounts='' scratch='' hosts='' uid='' gid='' envfile='' argvfile=''
# shellcheck source=/dev/null
. "$1"
mkdir -p "$work/upper" "$work/overlay" "$work/root"
root=$work/root
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$work/upper,workdir=$work/overlay" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount --rbind /dev "$root/dev"
mkdir -p "$root/run/secrets" "$root/tmp"
mount -t tmpfs -o "$scratch" tmpfs "$root/tmp"
while IFS=$'\t' read -r source target mode; do
    [ -n "$source" ] || continue
    if [ -d "$source" ]; then
        mkdir -p "$root$target"
    else
        mkdir -p "$root${target%/*}"
        touch "$root$target"
    fi
    mount --bind "$source" "$root$target"
    [ "$mode" = rw ] || mount -o remount,bind,ro "$root$target"
done <<<"$mounts"
touch "$root/etc/hosts"
mount --bind "$hosts" "$root/etc/hosts"
if [ "$readonly" = 1 ]; then mount -o remount,bind,ro "$root"; fi
ulimit -c 0
mapfile -d '' -t environment <"$envfile"
mapfile -d '' -t argv <"$argvfile"
exec chroot "$root" setpriv --reuid="$uid" --regid="$gid" --clear-groups --no-new-privs \
    --bounding-set=-all --inh-caps=-all env -i "${environment[@]}" "${argv[@]}"
