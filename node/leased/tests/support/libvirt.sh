#!/bin/sh
# A libvirtd of its own: run inside fresh mount and network namespaces with
# the directory of its configuration, in which it also leaves its socket.
# Nothing of the machine's own libvirt is read, written or listened on.
set -eu
mount --make-rprivate /
for directory in /run /var/lib/libvirt /var/cache/libvirt /var/log/libvirt; do
    mkdir -p "$directory"
    mount -t tmpfs tmpfs "$directory"
done
# The user that libvirtd wants to exist, whether or not Debian made it here.
for file in passwd group; do
    grep -v '^libvirt-qemu:' "/etc/$file" >"/run/$file"
done
echo 'libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin' >>/run/passwd
echo 'libvirt-qemu:x:64055:' >>/run/group
for file in passwd group; do
    mount --bind "/run/$file" "/etc/$file"
done
mkdir -p /etc/libvirt
mount --bind "$1" /etc/libvirt
# The guest's disk: one path on every host, as shared storage has it. Each
# host has bytes of its own there, so that nothing but the lease is in the
# second host's way.
truncate --size 4M /run/guest.img
# One daemon for everything, or one for QEMU.
for daemon in libvirtd virtqemud; do
    if command -v "$daemon" >/dev/null; then
        exec "$daemon" --config /etc/libvirt/daemon.conf --pid-file "$1/pid"
    fi
done
echo 'libvirtd is missing; install it with: apt-get install -y libvirt-daemon libvirt-daemon-driver-qemu' >&2
exit 1
