#!/bin/sh
# Measures what the Packet trait costs against raw pointers: the two programs of overlay-ebpf/src/bin/view_cost.rs judge the same frame
# in turn, ROUNDS times, with BPF_PROG_TEST_RUN. Prints nanoseconds per run, the ratio of each round and the median.
# Needs root and bpftool. Leaves nothing behind: the pins live in a mount namespace of their own.
#
#   cargo xtask build-ebpf --experiment && docs/adr/0001-measure.sh
set -eu

if [ "${1-}" != inside ]; then
    exec unshare --mount --net -- "$0" inside
fi
object=$(dirname "$0")/../../target/ebpf/view_cost
rounds=${ROUNDS-21}
repeat=${REPEAT-2000000}
# No dot in the path: libbpf turns dots into underscores when it pins.
work=$(mktemp -d /tmp/view-cost-XXXXXX)
trap 'umount "$work/bpf"; rm -rf "$work"' EXIT
mkdir "$work/bpf"
mount -t bpf bpf "$work/bpf"
mkdir "$work/bpf/maps"

bpftool prog loadall "$object" "$work/bpf/progs" pinmaps "$work/bpf/maps" 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
# Settings: ABI 1, VNI 1, port 8472, receive mode, MTU and two ifindexes; address, pod network, mask, gateway; two MACs.
bpftool map update pinned "$work/bpf/maps/SETTINGS" key hex 00 00 00 00 value hex \
    01 00 00 00 01 00 00 00 18 21 00 00 01 00 00 00 aa 05 00 00 03 00 00 00 02 00 00 00 \
    c0 a8 32 0c 0a f4 02 00 ff ff ff 00 0a f4 02 01 0e 4f c0 a8 32 0c 36 d0 af 5a 9a c9
# A TCP SYN in VXLAN, captured from the kernel's vxlan device.
printf '%s' \
    36d0af5a9ac9c6da3ef787ef08004500006ea7d800004011ed3ec0a8320bc0a8320cb3322118005a4b9608000000000001000e4fc0a8320c0e4fc0a8320b0800 \
    4500003cffb0400040062224 0af401000af40200b3fe005009ea871800000000a002fd5c5f4c0000020405820402080a31f35b5a000000000103030a |
    perl -ne 'print pack("H*", $_)' > "$work/frame"

run() {
    bpftool prog run pinned "$work/bpf/progs/$1" data_in "$work/frame" repeat "$repeat" | sed -n 's/.*Return value: \([0-9]*\), duration (average): \([0-9]*\)ns/\1 \2/p'
}

uname -sr
echo "round  by_trait ns  by_pointer ns  ratio"
round=0
while [ "$round" -lt "$rounds" ]; do
    round=$((round + 1))
    trait=$(run by_trait)
    pointer=$(run by_pointer)
    # 0x100 and the inner TTL of 64: both accepted the frame.
    [ "${trait% *}" = 320 ] && [ "${pointer% *}" = 320 ] || { echo "a program refused the frame: $trait, $pointer" >&2; exit 1; }
    echo "$round ${trait#* } ${pointer#* }"
done | awk '
    { ratio[NR] = $2 / $3; t[NR] = $2; p[NR] = $3; printf "%5d  %11d  %13d  %5.3f\n", $1, $2, $3, ratio[NR] }
    function sort(a, n,   i, j, x) { for (i = 2; i <= n; i++) { x = a[i]; for (j = i - 1; j > 0 && a[j] > x; j--) a[j + 1] = a[j]; a[j + 1] = x } }
    END { sort(ratio, NR); sort(t, NR); sort(p, NR); m = int((NR + 1) / 2)
          printf "median %11d  %13d  %5.3f (%.3f to %.3f)\n", t[m], p[m], ratio[m], ratio[1], ratio[NR] }'
