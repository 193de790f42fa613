#!/bin/bash
# Run a script in a chroot on a stack of layers, keeping what it writes as a new layer.
# Runs as root in its own mount and PID namespaces, so nothing outlives it.
# usage: build_layer.sh LOWER[:LOWER…] NEW_LAYER IMAGE[:IMAGE…]|'' [HOST_PATH:CHROOT_PATH…] < SCRIPT
set -euo pipefail
lower=$1 layer=$2 image=$3
shift 3
mkdir -p "$layer/tree" "$layer/work" "$layer/root"
root=$layer/root
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$layer/tree,workdir=$layer/work" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs tmpfs "$root/run"
mkdir "$root/run/lock" "$root/run/build"
if [ -n "$image" ]; then
    mkdir -p "$root/mnt/image"
    mount -t overlay overlay -o "lowerdir=$image" "$root/mnt/image"
fi
for pair in "$@"; do
    from=${pair%%:*} to=$root${pair#*:}
    if [ -d "$from" ]; then mkdir -p "$to"; else mkdir -p "${to%/*}" && touch "$to"; fi
    mount --bind "$from" "$to"
done
# The script comes on a file, since what it runs may read its own standard input.
cat >"$root/run/build/script"
env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
    LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
    chroot "$root" /bin/bash -euo pipefail /run/build/script </dev/null
