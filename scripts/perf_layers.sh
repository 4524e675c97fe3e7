#!/usr/bin/env bash
# What the layers' matrices reach in prefill, of the multiply rate this machine was measured to have; and how much of
# them a decode step could skip, because a gate is closed or an activation is zero.
#
# Usage: scripts/perf_layers.sh [MODEL] [ROUNDS]
#
# MODEL defaults to a synthesized one of the 2B-4T shape (1.2 GB, kept in target-instrument), ROUNDS to 5. Zeros are
# counted in that model and in the demo model, whose weights were trained.
#
# A round measures the multiply rate, as `bitnet doctor` does, then profiles prompts of 128 and of 512 tokens. The rate
# of the layers is that of the spans `matrix` and `matrix_prepare`, which hold everything a product takes but waiting for
# another thread: the unpacking of weights, the products, the rescaling. Its ceiling is the best rate of all rounds. The
# limit is 88 % in the median.
#
# Of `up`, the rows behind a gate that is not positive are multiplied by zero; of `down`, the columns whose activation
# was quantized to zero. Counted over TOKENS=32 decoded tokens, after a prompt.
#
# Writes receipts/layers.json, and fails if the limit is missed.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

[[ ${1:-} == --help || ${1:-} == -h ]] && help_and_exit
[[ ${1:-} != -* ]] || die "$1: unknown argument; see --help"
[[ $# -le 2 ]] || die "expected at most two arguments; see --help"
rounds=${2:-5}
tokens=${TOKENS:-32}
[[ $rounds =~ ^[0-9]+$ && $rounds -ge 1 ]] || die "ROUNDS $rounds: expected a number from 1"
[[ $tokens =~ ^[0-9]+$ && $tokens -ge 1 ]] || die "TOKENS=$tokens: expected a number from 1"
[[ -z ${1:-} || -f $1 ]] || die "$1: no such model file"

build instrument
choose_model_or_synth "${1:-}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# prompt N: that many token ids, no two neighbours alike.
prompt() {
    seq "$1" | awk '{ printf "%s%d", (NR > 1 ? "," : ""), $1 * 7919 % 128000 }'
}

# number NAME FILE: a number at the top of a JSON object printed over several lines.
number() {
    sed -n "s/^  \"$1\": \([0-9.e+-]*\),*$/\1/p" "$2" | grep . || die "no $1 in what the engine printed"
}

# median FILE: of the numbers in it.
median() {
    sort -n "$1" | awk '{ v[NR] = $1 } END { printf "%.6g\n", NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

ask_engine "$INSTRUMENT"
for ((round = 1; round <= rounds; round++)); do
    say "round $round of $rounds"
    "$INSTRUMENT" doctor --quiet --json --threads "$THREADS" >"$work/doctor" || die "bitnet doctor failed"
    number multiplies_per_s "$work/doctor" >>"$work/ceilings"
    for n in 128 512; do
        unset_switches "$INSTRUMENT" profile --quiet --json --model "$MODEL" --tokens "$(prompt "$n")" -n 1 \
            --threads "$THREADS" >"$work/profile" || die "bitnet profile failed"
        perl -e '
            use JSON::PP;
            my ($threads, $from, $to) = @ARGV;
            open my $in, "<", $from or die;
            my $profile = decode_json(do { local $/; <$in> });
            my ($row) = grep { $_->{name} eq "matrix" } @{ $profile->{operations} };
            die "no products in the profile\n" unless $row && $row->{macs} > 0;
            my $ms = 0;
            $ms += $_->{total_ms} for grep { $_->{name} =~ /^matrix(?:_prepare)?$/ } @{ $profile->{operations} };
            open my $out, ">>", $to or die;
            printf $out "%.6g\n", $row->{macs} / $ms * 1e3 * $threads;
            open $out, ">>", "$to.speed" or die;
            printf $out "%.6g\n", $profile->{prompt}{tok_per_s};
        ' "$THREADS" "$work/profile" "$work/rates.$n" || die "no rate in the profile"
    done
done
ceiling=$(sort -n "$work/ceilings" | tail -n 1)

# zeros MODEL FLAG...: counted in one model's decode, as a JSON object.
zeros() {
    local model=$1
    shift
    unset_switches "$INSTRUMENT" profile --quiet --model "$model" "$@" -n "$((tokens + 1))" --threads "$THREADS" \
        --trace "$work/trace" --force >/dev/null || die "bitnet profile failed on $(shown "$model")"
    NAME=$(shown "$model") TOKENS=$tokens perl -ne '
        next unless /"cat":"bitnet_core::model::matrix::(?:product|skip)"/;
        if (/"rows":(\d+),"open":(\d+)/) { $gates += $1; $open += $2 }
        if (/ffn_down\.weight","rows":(\d+),.*"macs":(\d+),"zeros":(\d+)/) { $values += $2 / $1; $zeros += $3 }
        if (/ffn_down\.weight","cols":(\d+),"zeros":(\d+)/) { $values += $1; $zeros += $2 }
        END {
            $gates && $values or die "no gates or no activations in the trace\n";
            printf qq({ "model": "%s", "tokens": %d, "gates_closed": %.4f, "activations_of_down_zero": %.4f }),
                $ENV{NAME}, $ENV{TOKENS}, 1 - $open / $gates, $zeros / $values;
        }
    ' "$work/trace" || die "no zeros in the trace of $(shown "$model")"
}

of_model=$(zeros "$MODEL" "${INPUT[@]}")
of_demo=$(zeros "$ROOT/bitnet-cli/assets/demo.gguf" -p "2+2=")

# part N: the samples of prompts of N tokens, as a JSON object.
part() {
    local median share
    median=$(median "$work/rates.$1")
    share=$(awk -v a="$median" -v b="$ceiling" 'BEGIN { printf "%.4f", a / b }')
    echo "    { \"prompt\": $1, \"multiplies_per_s\": $median, \"of_ceiling\": $share,"
    echo "      \"samples\": [$(paste -s -d, "$work/rates.$1" | sed 's/,/, /g')],"
    echo "      \"prompt_tok_per_s\": [$(paste -s -d, "$work/rates.$1.speed" | sed 's/,/, /g')] }$2"
    awk -v share="$share" 'BEGIN { exit !(share >= 0.88) }' || touch "$work/missed"
}

{
    echo "{"
    json_header layers
    json_model
    echo '  "features": "instrument",'
    echo "  \"rounds\": $rounds,"
    member unit "multiply-adds of int8 per second, all threads together"
    echo "  \"ceiling\": $ceiling,"
    echo "  \"ceiling_samples\": [$(paste -s -d, "$work/ceilings" | sed 's/,/, /g')],"
    echo '  "limit": 0.88,'
    echo '  "prefill": ['
    part 128 ","
    part 512 ""
    echo '  ],'
    echo '  "zeros": ['
    echo "    $of_model,"
    echo "    $of_demo"
    echo '  ]'
    echo "}"
} >"$work/receipt"
write_receipt layers.json "$work/receipt"
[[ ! -e $work/missed ]] || die "less than 88 % of the multiply rate; see the receipt"
