#!/usr/bin/env bash
# Both variants must do the same thing: same stdout, `inspect` included, and nothing on stderr, while no switch
# is set; and the instrumented one must print the same text with every switch on.
#
# Usage: scripts/compare_variants.sh [MODEL]...
#
# Without arguments: models/microsoft-bitnet-b1.58-2B-4T-gguf/ggml-model-i2_s.gguf or, where that is absent, a
# small synthesized model, and the golden models. The model embedded in the binary is compared where the tree holds
# one (bitnet-cli/assets/demo.gguf); the receipt says whether it was. Any difference fails.
#
# Writes receipts/variants.json.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

[[ ${1:-} == --help || ${1:-} == -h ]] && help_and_exit

build plain
build instrument
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# same NAME FLAGS...: runs both variants with the flags and appends one JSON object to $work/results.
same() {
    local name=$1
    shift
    say "comparing: bitnet $(shown_command "$@")"
    unset_switches "$PLAIN" "$@" >"$work/plain" 2>"$work/plain.err" \
        || die "$name: the plain variant failed: $(tail -n 3 "$work/plain.err")"
    unset_switches "$INSTRUMENT" "$@" >"$work/unset" 2>"$work/unset.err" \
        || die "$name: the instrument variant failed: $(tail -n 3 "$work/unset.err")"
    [[ -s $work/plain ]] || die "$name: nothing on stdout, so nothing was compared"
    cmp "$work/plain" "$work/unset" || die "$name: the variants print different things"
    [[ ! -s $work/plain.err ]] || die "$name: the plain variant's stderr is not silent: $(head -n 1 "$work/plain.err")"
    [[ ! -s $work/unset.err ]] \
        || die "$name: the instrument variant's stderr is not silent while unset: $(head -n 1 "$work/unset.err")"
    {
        [[ -s $work/results ]] && echo ","
        printf '    {"what": %s, "command": %s, "stdout_sha256": "%s", "stdout_bytes": %s, "identical": true, "stderr_bytes": 0}' \
            "$(json "$name")" "$(json "bitnet $(shown_command "$@")")" "$(sha256 "$work/plain")" "$(size "$work/plain")"
    } >>"$work/results.more"
    cat "$work/results.more" >>"$work/results"
    rm "$work/results.more"
}

# traced NAME FLAGS...: the same run with every switch on; its stdout must be the one `same` just saw.
traced() {
    local name=$1
    shift
    env BITNET_PARITY=1 BITNET_TRACE_QUANT=1 BITNET_TRACE_TIMING=1 BITNET_TRACE_FILE="$work/trace.json" \
        "$INSTRUMENT" "$@" >"$work/set" 2>"$work/set.err" \
        || die "$name: the instrument variant failed with its switches set: $(tail -n 3 "$work/set.err")"
    cmp "$work/plain" "$work/set" || die "$name: setting the switches changes what is printed"
    local line
    for line in '{"step":' 'quant_dispatch: ' 'timing: '; do
        grep -q -F "$line" "$work/set.err" || die "$name: switches set, but no line with $line on stderr"
    done
    [[ -s $work/trace.json ]] || die "$name: BITNET_TRACE_FILE was set, but no trace was written"
}

compare_model() {
    local flags=(run --model "$MODEL" "${INPUT[@]}" -n 16 --greedy --quiet)
    same "inspect $(basename "$MODEL")" inspect --json "$MODEL"
    same "run $(basename "$MODEL")" "${flags[@]}"
    traced "run $(basename "$MODEL")" "${flags[@]}"
    printf '    {"model": %s, "is": %s, "sha256": "%s", "bytes": %s}\n' \
        "$(json "$(shown "$MODEL")")" "$(json "$MODEL_IS")" "$(sha256 "$MODEL")" "$(size "$MODEL")" >>"$work/models"
}

: >"$work/results"
if [[ $# -eq 0 ]]; then
    choose_model
    compare_model
    for model in "$ROOT"/bitnet-core/tests/data/golden/*.gguf; do
        choose_model "$model"
        compare_model
    done
else
    for model in "$@"; do
        choose_model "$model"
        compare_model
    done
fi
embedded=false
if [[ -f $ROOT/bitnet-cli/assets/demo.gguf ]]; then
    embedded=true
    demo=(run -p "12+34=" -n 16 --greedy --quiet)
    same "inspect, embedded model" inspect --json
    same "run, embedded model" "${demo[@]}"
    traced "run, embedded model" "${demo[@]}"
fi

{
    echo "{"
    json_header variants
    echo "  \"features\": [\"\", \"instrument\"],"
    echo "  \"plain\": {\"sha256\": \"$(sha256 "$PLAIN")\", \"bytes\": $(size "$PLAIN")},"
    echo "  \"instrument\": {\"sha256\": \"$(sha256 "$INSTRUMENT")\", \"bytes\": $(size "$INSTRUMENT")},"
    echo "  \"models\": ["
    sed '$!s/$/,/' "$work/models"
    echo "  ],"
    echo "  \"compared\": ["
    cat "$work/results"
    echo
    echo "  ],"
    echo "  \"embedded_model_compared\": $embedded,"
    echo "  \"switches_set_stdout_identical\": true"
    echo "}"
} >"$work/receipt"
write_receipt variants.json "$work/receipt"
