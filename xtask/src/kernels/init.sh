#!/bin/busybox sh
# Process 1 of a kernel under test: loads the eBPF object, attaches every program to a device of the kind it is for, says what happened.
# xtask reads the lines that begin with "xtask:" from the serial console. The machine powers off at the end, whatever happens.
/bin/busybox mkdir -p /bin /proc /sys /tmp
/bin/busybox --install -s /bin
export PATH=/bin:/sbin

say() { echo "xtask: $*"; }

finish() {
    say "$*"
    poweroff -f
}

# Runs a command; on failure shows the end of its output and gives up.
must() {
    "$@" >/tmp/out 2>&1 && return
    tail -n 40 /tmp/out
    finish "failed $*"
}

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
mount -t bpf bpf /sys/fs/bpf
say "kernel $(uname -r)"

for module in $(cat /modules/order); do
    must insmod "/modules/$module"
done

must bpftool prog loadall /object /sys/fs/bpf/progs pinmaps /sys/fs/bpf/maps

# The veth stands for the underlay NIC and for a pod's link, the vxlan device is made as the agent makes it.
must ip link add underlay type veth peer name pod
must ip link add ovl0 type vxlan external dstport 8472
for device in underlay pod ovl0; do
    must ip link set "$device" up
    must tc qdisc add dev "$device" clsact
done

# /programs: one "name section" pair a line.
while read -r name section; do
    program=/sys/fs/bpf/progs/$name
    case $section in
    xdp*) must bpftool net attach xdpdrv pinned "$program" dev underlay ;;
    *)
        for device in underlay pod ovl0; do
            must tc filter add dev "$device" ingress bpf direct-action object-pinned "$program"
            must tc filter add dev "$device" egress bpf direct-action object-pinned "$program"
        done
        ;;
    esac
    say "attached $name"
done </programs

# How much the verifier had to look at. Its full log may not fit its buffer, so this is a second load and decides nothing.
rm -r /sys/fs/bpf/progs /sys/fs/bpf/maps
if bpftool --debug prog loadall /object /sys/fs/bpf/counted >/tmp/out 2>&1; then
    sed -n "s/^libbpf: prog '\(.*\)': -- BEGIN PROG LOAD LOG --.*/program \1/p; s/^processed \([0-9]*\) insns.*/processed \1/p" /tmp/out |
        while read -r word value; do
            case $word in
            program) name=$value ;;
            processed) say "verified $name $value" ;;
            esac
        done
fi

finish passed
