#!/usr/bin/env bash
# Both variants must do the same thing: same text, same logits to the bit, same `inspect`, and nothing on stderr,
# while no switch is set; and with every switch on, the instrumented one must print the same text and trace the logits
# that the plain one records.
#
# Usage: scripts/compare_variants.sh [MODEL]...
#
# Without arguments: models/microsoft-bitnet-b1.58-2B-4T-gguf/ggml-model-i2_s.gguf or, where that is absent, the demo
# model's file, and the golden models. The model embedded in the binary is compared where the tree holds one
# (bitnet-cli/assets/demo.gguf); the receipt says whether it was. Any difference fails, and so does a set of models
# whose texts are all the same one.
#
# Writes receipts/variants.json.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

[[ ${1:-} == --help || ${1:-} == -h ]] && help_and_exit
for model in "$@"; do
    [[ $model != -* ]] || die "$model: unknown argument; see --help"
    [[ -f $model ]] || die "$model: no such model file"
done

build plain
build instrument
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: >"$work/results"
: >"$work/texts"

# same NAME FLAGS...: runs both variants with the flags and appends one JSON object to $work/results.
same() {
    local name=$1 sha256 bytes command
    shift
    command="bitnet $(shown_command "$@")"
    say "comparing: $command"
    unset_switches "$PLAIN" "$@" >"$work/plain" 2>"$work/plain.err" \
        || die "$name: the plain variant failed: $(tail -n 3 "$work/plain.err")"
    unset_switches "$INSTRUMENT" "$@" >"$work/unset" 2>"$work/unset.err" \
        || die "$name: the instrument variant failed: $(tail -n 3 "$work/unset.err")"
    [[ -s $work/plain ]] || die "$name: nothing on stdout, so nothing was compared"
    cmp "$work/plain" "$work/unset" || die "$name: the variants print different things"
    [[ ! -s $work/plain.err ]] || die "$name: the plain variant's stderr is not silent: $(head -n 1 "$work/plain.err")"
    [[ ! -s $work/unset.err ]] \
        || die "$name: the instrument variant's stderr is not silent while unset: $(head -n 1 "$work/unset.err")"
    sha256=$(sha256 "$work/plain")
    bytes=$(size "$work/plain")
    {
        [[ ! -s $work/results ]] || echo ","
        printf '    {"what": '
        json "$name"
        printf ', "command": '
        json "$command"
        printf ', "stdout_sha256": "%s", "stdout_bytes": %s, "identical": true, "stderr_bytes": 0}' "$sha256" "$bytes"
    } >"$work/result"
    cat "$work/result" >>"$work/results"
}

# traced NAME FLAGS...: `run` with every switch on. Its stdout must be $work/text, and its parity lines those of
# $work/logits: what `run` and `parity --record` of the plain variant gave.
traced() {
    local name=$1 line n
    shift
    env BITNET_PARITY=1 BITNET_TRACE_QUANT=1 BITNET_TRACE_TIMING=1 BITNET_TRACE_FILE="$work/trace.json" \
        "$INSTRUMENT" "$@" >"$work/set" 2>"$work/set.err" \
        || die "$name: the instrument variant failed with its switches set: $(tail -n 3 "$work/set.err")"
    cmp "$work/text" "$work/set" || die "$name: setting the switches changes what is printed"
    for line in '{"step":' 'quant_dispatch: ' 'timing: '; do
        grep -q -F "$line" "$work/set.err" || die "$name: switches set, but no line with $line on stderr"
    done
    [[ -s $work/trace.json ]] || die "$name: BITNET_TRACE_FILE was set, but no trace was written"
    grep '^{"step":' "$work/set.err" >"$work/set.logits"
    n=$(wc -l <"$work/set.logits")
    head -n "$n" "$work/logits" | cmp - "$work/set.logits" || die "$name: the traced logits are not the recorded ones"
}

# compare NAME FILE INPUT...: everything about one model; without a file, about the embedded one.
compare() {
    local name=$1 file=$2 model=()
    shift 2
    [[ -z $file ]] || model=(-m "$file")
    same "inspect, $name" inspect --json ${file:+"$file"}
    same "logits, $name" parity --record - "${model[@]}" "$@" -n 16
    cp "$work/plain" "$work/logits"
    same "run, $name" run "${model[@]}" "$@" -n 16 --greedy --quiet
    cp "$work/plain" "$work/text"
    sha256 "$work/text" >>"$work/texts"
    traced "run, $name" run "${model[@]}" "$@" -n 16 --greedy --quiet
}

compare_model() {
    local shown sha256 bytes
    choose_model "$@"
    compare "$(basename "$MODEL")" "$MODEL" "${INPUT[@]}"
    shown=$(shown "$MODEL")
    sha256=$(sha256 "$MODEL")
    bytes=$(size "$MODEL")
    {
        printf '    {"model": '
        json "$shown"
        printf ', "is": '
        json "$MODEL_IS"
        printf ', "sha256": "%s", "bytes": %s}\n' "$sha256" "$bytes"
    } >>"$work/models"
}

if [[ $# -eq 0 ]]; then
    compare_model
    for model in "$ROOT"/bitnet-core/tests/data/golden/*.gguf; do
        compare_model "$model"
    done
else
    for model in "$@"; do
        compare_model "$model"
    done
fi
ask_engine "$PLAIN"
isa=$ISA threads=$THREADS
ask_engine "$INSTRUMENT"
[[ "$isa $threads" == "$ISA $THREADS" ]] \
    || die "the plain variant computes with $isa on $threads threads, the other with $ISA on $THREADS"
embedded=false
if [[ -f $ROOT/bitnet-cli/assets/demo.gguf ]]; then
    embedded=true
    compare "embedded model" "" -p "12+34="
fi
# Two texts at least: a model that repeats its last token says the same whatever its weights are.
if [[ $(wc -l <"$work/texts") -gt 1 ]]; then
    different=$(sort -u "$work/texts" | wc -l)
    [[ $different -gt 1 ]] || die "all models printed the same text, so it hardly depends on what was computed"
fi

plain_sha256=$(sha256 "$PLAIN")
plain_bytes=$(size "$PLAIN")
instrument_sha256=$(sha256 "$INSTRUMENT")
instrument_bytes=$(size "$INSTRUMENT")
{
    echo "{"
    json_header variants
    echo "  \"features\": [\"\", \"instrument\"],"
    member isa "$ISA"
    echo "  \"threads\": $THREADS,"
    echo "  \"plain\": {\"sha256\": \"$plain_sha256\", \"bytes\": $plain_bytes},"
    echo "  \"instrument\": {\"sha256\": \"$instrument_sha256\", \"bytes\": $instrument_bytes},"
    echo "  \"models\": ["
    sed '$!s/$/,/' "$work/models"
    echo "  ],"
    echo "  \"compared\": ["
    cat "$work/results"
    echo
    echo "  ],"
    echo "  \"embedded_model_compared\": $embedded,"
    echo "  \"switches_set_stdout_identical\": true,"
    echo "  \"switches_set_logits_identical\": true"
    echo "}"
} >"$work/receipt"
write_receipt variants.json "$work/receipt"
