#!/bin/busybox sh
# Process 1 of a kernel under test: loads the eBPF object, attaches every program to a device of the kind it is for, says what happened.
# xtask reads the lines that begin with "xtask:" from the serial console. The machine powers off at the end, whatever happens.
/bin/busybox mkdir -p /bin /proc /sys /tmp
/bin/busybox --install -s /bin
export PATH=/bin
# bpftool, ip and tc by their full path: busybox's shell prefers its own, smaller ip and tc to any other.
tools=/tools

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

# How many instructions the verifier looked at. The kernel tells it of an open program only, so one is kept open by running it.
verified() {
    "$tools/bpftool" prog run pinned "$1" data_in /frame repeat 4000000000 >/dev/null 2>&1 &
    runner=$!
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        count=$(sed -n 's/^verified_insns:[[:space:]]*//p' /proc/$runner/fdinfo/* 2>/dev/null)
        [ -z "$count" ] || break
        sleep 0.1
    done
    kill $runner
    echo "${count:-an unknown number of}"
}

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t bpf bpf /sys/fs/bpf
say "kernel $(uname -r)"

for module in $(cat /modules/order); do
    must insmod "/modules/$module"
done

must "$tools/bpftool" prog loadall /object /sys/fs/bpf/progs pinmaps /sys/fs/bpf/maps

# The veth stands for the underlay NIC and for a pod's link, the vxlan device is made as the agent makes it.
must "$tools/ip" link add underlay type veth peer name pod
must "$tools/ip" link add ovl0 type vxlan external dstport 8472
for device in underlay pod ovl0; do
    must "$tools/ip" link set "$device" up
    must "$tools/tc" qdisc add dev "$device" clsact
done

# /programs: one "name section" pair a line.
while read -r name section; do
    program=/sys/fs/bpf/progs/$name
    case $section in
    xdp*) must "$tools/bpftool" net attach xdpdrv pinned "$program" dev underlay ;;
    *)
        for device in underlay pod ovl0; do
            must "$tools/tc" filter add dev "$device" ingress bpf direct-action object-pinned "$program"
            must "$tools/tc" filter add dev "$device" egress bpf direct-action object-pinned "$program"
        done
        ;;
    esac
    say "$name: attached, the verifier looked at $(verified "$program") instructions"
done </programs

finish passed
