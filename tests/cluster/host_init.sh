#!/bin/bash
# Turn fresh namespaces into a host: mount its root file system, move into it, become its init.
# Runs as PID 1 of the host. File descriptor 3 gets the word "ready" at the end.
# usage: host_init.sh NAME LOWER[:LOWER…] HOST_FOLDER [FROM:TO[:ro]…]
set -euo pipefail
name=$1 lower=$2 folder=$3
shift 3
root=$folder/root
mount -t overlay overlay \
    -o "lowerdir=$lower,upperdir=$folder/changes,workdir=$folder/work" "$root"

for bind in "$@"; do
    IFS=: read -r from to mode <<<"$bind"
    mkdir -p "$root$to"
    mount --bind "$from" "$root$to"
    if [ "$mode" = ro ]; then mount -o remount,bind,ro "$root$to"; fi
done

mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mkdir -m 1777 "$root/run/lock"
mkdir -m 711 "$root/run/sshd"

dev=$root/dev
mount -t tmpfs -o mode=755 tmpfs "$dev"
node() { mknod -m "$1" "$dev/$2" c "$3" "$4"; }
node 666 null 1 3
node 666 zero 1 5
node 666 full 1 7
node 666 random 1 8
node 666 urandom 1 9
node 666 tty 5 0
node 666 fuse 10 229
# GPUs for Slurm to count and hand out: to a program they are as empty as /dev/null.
for number in {0..15}; do node 666 "fakegpu$number" 1 3; done
mkdir "$dev/pts" "$dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$dev/shm"
ln -s pts/ptmx "$dev/ptmx"
ln -s /proc/self/fd "$dev/fd"
ln -s /proc/self/fd/0 "$dev/stdin"
ln -s /proc/self/fd/1 "$dev/stdout"
ln -s /proc/self/fd/2 "$dev/stderr"

hostname "$name"
# Not a chroot: in one, the kernel denies user namespaces, which Apptainer needs.
cd "$root"
mkdir -p .before
pivot_root . .before
cd /
umount -l /.before
rmdir /.before
echo ready >&3
exec 3>&-
# tini reaps what daemons and killed jobs leave, as a real init does.
exec /usr/bin/tini -- sleep infinity
