#!/usr/bin/env bash
# Everything that waits for a GPU, in order of worth, in at most eight minutes.
#
#     benchmarks/on_gpu.sh [--out DIR] [--dry] [--only PART,...] [--list]
#
# Each part has a time limit of its own and may fail alone. What a part measures it writes at once,
# row by row, into DIR/PART.jsonl, and what it prints into DIR/PART.log; DIR/parts.jsonl says how long
# each took and how it ended. Afterwards benchmarks/gpu_page.py makes a page of them, DIR/page.md;
# `python benchmarks/gpu_page.py DIR` writes them into docs/gpu-results.md. The status is 1 where a
# part failed or was cut.
#
#     --out DIR     the folder; $OUT, or else outputs/on_gpu
#     --dry         on the CPU, with tiny models and next to no work: to see that the script works
#     --only A,B    these parts alone
#     --list        name the parts
#
# PYTHON names the interpreter. WHEELS may name a folder with wheels of the optional libraries, for a
# machine without a network; SECONDS_LEFT how long all of it may take (480; a dry run has ten times
# as long, since its machine may be slow and has to compile).
set -uo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
out=${OUT:-outputs/on_gpu}
total=${SECONDS_LEFT:-480}
slack=1
dry=
only=
list=
while [ $# -gt 0 ]; do
    case $1 in
        --out) out=$2; shift ;;
        --only) only=$2; shift ;;
        --dry) dry=yes ;;
        --list) list=yes ;;
        *) echo "on_gpu.sh: unknown option $1" >&2; exit 2 ;;
    esac
    shift
done
mkdir -p "$out" || exit 2
out=$(cd "$out" && pwd)
[ -n "$list" ] || rm -f "$out/parts.jsonl" "$out/page.md"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# libraries that are built here lie in a folder of their own: the environment stays as it was
export PYTHONPATH="$PWD:$work/libraries${PYTHONPATH:+:$PYTHONPATH}"
export TORCH_EXTENSIONS_DIR="$work/extensions"
if [ -n "$dry" ]; then
    slack=10
    total=$((total * slack))
    export THREED_KERNELS=${THREED_KERNELS:-reference} # numba compiles for minutes, and few need it
fi

asked() {
    [ -z "$only" ] || case ",$only," in *",$1,"*) ;; *) return 1 ;; esac
}

# part NAME SECONDS SCRIPT WORDS...: run a part, and say how it ended; --json FILE is added
part() {
    local name=$1 limit=$(($2 * slack)) script=$3 start=$SECONDS status=0
    shift 3
    asked "$name" || return 0
    if [ -n "$list" ]; then
        echo "$name"
        return 0
    fi
    rm -f "$out/$name.jsonl" "$out/$name.log"
    [ "$limit" -le $((total - SECONDS)) ] || limit=$((total - SECONDS))
    if [ "$limit" -lt 5 ]; then
        limit=0
        status=124 # as `timeout` has it
    else
        timeout -k 5 "$limit" "$python" "benchmarks/$script.py" "$@" --json "$out/$name.jsonl" \
            >"$out/$name.log" 2>&1 || status=$?
    fi
    printf '{"part": "%s", "status": %d, "seconds": %d, "limit": %d}\n' \
        "$name" "$status" $((SECONDS - start)) "$limit" >>"$out/parts.jsonl"
    echo "$name: status $status after $((SECONDS - start)) s"
}

device=cuda
small=() tiny=() quick=() cases=() offline=()
if [ -n "$dry" ]; then
    device=cpu
    small=(--small --kinds reference) tiny=(--tiny --only dreamfusion,texture) quick=(--quick)
    cases=(--cases 1) offline=(--offline)
fi

part about 30 gpu_parts about --device "$device"
# compilers and tests side by side: neither is a measurement
part libraries 170 gpu_parts libraries --into "$work/libraries" "${offline[@]}" &
[ -z "$list" ] || wait
part tests 170 gpu_tests
wait
part library-tests 60 gpu_tests --libraries
part device 50 device --device "$device" "${small[@]}"
part steps 110 steps --device "$device" --steps 12 --limit-seconds 8 "${tiny[@]}"
part default 45 gpu_parts default --device "$device" "${quick[@]}"
part memory 40 memory --device "$device" "${cases[@]}"

[ -z "$list" ] || exit 0
"$python" benchmarks/gpu_page.py "$out" --page docs/gpu-results.md --out "$out/page.md" || exit 1
! grep -qv '"status": 0,' "$out/parts.jsonl"
