#!/usr/bin/env bash
# What the annotations cost in decode: the plain build against the instrumented one, switches unset and set.
#
# Usage: scripts/perf_overhead.sh [MODEL] [PAIRS]
#
# MODEL defaults to a synthesized one of the 2B-4T shape (1.2 GB, kept in target-instrument), PAIRS to 30.
# TOKENS=33 in the environment sets how many tokens a run generates; the first, which holds the prompt and the
# making of the head's screen, is not counted.
#
# Each round runs four things in an order that turns round every time: plain, instrumented with every switch unset,
# instrumented with BITNET_TRACE_TIMING=1 and BITNET_TRACE_QUANT=1, and plain again. The second plain run against
# the first is the noise: what differs when nothing does. A ratio is the median over the rounds, with its quartiles.
#
# The cost of a single span, unset and recording, comes from the engine's own bench of it.
#
# Writes receipts/overhead.json.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

[[ ${1:-} == --help || ${1:-} == -h ]] && help_and_exit
[[ $# -le 2 ]] || die "expected at most two arguments; see --help"
pairs=${2:-30}
tokens=${TOKENS:-33}
[[ $pairs =~ ^[0-9]+$ && $pairs -ge 2 ]] || die "PAIRS $pairs: expected a number from 2"
[[ $tokens =~ ^[0-9]+$ && $tokens -ge 2 ]] || die "TOKENS=$tokens: expected a number from 2"

build plain
build instrument
if [[ -n ${1:-} ]]; then
    choose_model "$1"
else
    MODEL=$ROOT/target-instrument/synth-2b4t-1.gguf
    MODEL_IS="synthesized: bitnet synth --shape 2b4t --seed 1"
    INPUT=(--tokens "1,2,3,4,5,6,7,8")
    [[ -s $MODEL ]] || "$INSTRUMENT" synth --quiet --shape 2b4t --seed 1 "$MODEL" || die "cannot synthesize a model"
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

arguments=(run --model "$MODEL" "${INPUT[@]}" -n "$tokens" --greedy --ignore-eos --quiet --json)

# sample NAME: one run, whose milliseconds per decoded token are appended to $work/NAME.
sample() {
    local -a command
    case $1 in
        plain | again) command=("$PLAIN") ;;
        unset) command=("$INSTRUMENT") ;;
        set) command=(env BITNET_TRACE_TIMING=1 BITNET_TRACE_QUANT=1 "$INSTRUMENT") ;;
    esac
    unset_switches "${command[@]}" "${arguments[@]}" >"$work/json" 2>"$work/stderr" \
        || die "a run of $1 failed: $(tail -n 3 "$work/stderr")"
    if [[ $1 == set ]]; then
        [[ $(grep -c '^timing: ' "$work/stderr") -eq $((4 * tokens)) ]] || die "the set run did not trace"
    else
        [[ ! -s $work/stderr ]] || die "$1: expected a silent stderr, found: $(head -n 1 "$work/stderr")"
    fi
    perl -ne 'print $1 / $2, "\n" if /"eval":\{"ms":([0-9.e+-]+),"n":([0-9]+)/' "$work/json" >"$work/one"
    [[ -s $work/one ]] || die "no eval time in the output of $1"
    cat "$work/one" >>"$work/$1"
}

order=(plain unset set again)
for name in "${order[@]}"; do
    sample "$name" # warm up: the file, the binaries
done
for name in "${order[@]}"; do
    rm "$work/$name"
done
for ((round = 1; round <= pairs; round++)); do
    say "round $round of $pairs"
    for ((i = 0; i < 4; i++)); do
        sample "${order[(i + round) % 4]}"
    done
done

say "single spans"
(cd "$ROOT" && cargo bench --quiet --locked -p bitnet-core --features instrument --bench trace \
    --target-dir target-instrument) >"$work/spans" || die "the bench of a span failed"

# spans: what it printed, one JSON member a line.
spans() {
    perl -ne 'push @m, sprintf(q(    "%s": { "median_ns": %s, "least": %s, "most": %s, "limit": %s }), $1, $2, $3, $4, $5)
        if /^(\S.*?)\s+(-?[0-9.]+) ns per span \((-?[0-9.]+) to (-?[0-9.]+)\), limit ([0-9.]+)$/;
        END { @m == 4 or die "expected four lines\n"; print join(",\n", @m), "\n" }' "$work/spans"
}

# ratio NAME: quartiles of NAME against plain, pair by pair, as a JSON object.
ratio() {
    paste "$work/$1" "$work/plain" | awk '{ printf "%.6f\n", $1 / $2 }' | sort -n | awk '
        { v[NR] = $1 }
        function at(q,   x, i) { x = 1 + q * (NR - 1); i = int(x); return v[i] + (x - i) * (v[i < NR ? i + 1 : i] - v[i]) }
        END { printf "{ \"median\": %.5f, \"quartiles\": [%.5f, %.5f], \"least\": %.5f, \"most\": %.5f }",
              at(0.5), at(0.25), at(0.75), v[1], v[NR] }'
}

samples() {
    paste -s -d, "$work/$1" | sed 's/,/, /g'
}

{
    echo "{"
    json_header overhead
    echo "  \"model\": $(json "$(shown "$MODEL") ($MODEL_IS)"),"
    echo "  \"model_sha256\": \"$(sha256 "$MODEL")\","
    echo "  \"model_bytes\": $(size "$MODEL"),"
    echo "  \"command\": $(json "$(shown_command bitnet "${arguments[@]}")"),"
    echo "  \"spans\": {"
    spans
    echo "  },"
    echo "  \"pairs\": $pairs,"
    echo "  \"unit\": \"ms per decoded token; ratios are against plain, above 1 is slower\","
    echo "  \"noise\": $(ratio again),"
    echo "  \"unset\": $(ratio unset),"
    echo "  \"set\": $(ratio set),"
    for name in plain again unset; do
        echo "  \"samples_$name\": [$(samples "$name")],"
    done
    echo "  \"samples_set\": [$(samples set)]"
    echo "}"
} >"$work/receipt"
write_receipt overhead.json "$work/receipt"
