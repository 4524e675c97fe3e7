#!/usr/bin/env bash
# What the layers' matrices reach in prefill, of what the same kernel reaches when its operands stay in the caches; and
# how much of them a decode step could skip, because a gate is closed or an activation is zero.
#
# Usage: scripts/perf_layers.sh [MODEL] [ROUNDS]
#
# MODEL defaults to a synthesized one of the 2B-4T shape (1.2 GB, kept in target-instrument), ROUNDS to 5. Zeros are
# counted in that model and in the demo model, whose weights were trained.
#
# A round profiles a prompt of 128 tokens and one of 512. The rate of the layers is that of the spans `matrix` and
# `matrix_prepare`, which hold everything a product takes but waiting for another thread: the unpacking of weights, the
# products, the rescaling. Before the first profile and after every one, `bitnet doctor` measures the ceiling: the rate
# of the same kernel on operands that stay in the caches, which is not that of the bare multiply instruction. Machines
# are not equally fast at all times, so a share is the rate over the larger of the two ceilings beside it. The limit is
# 88 % in the median of the shares.
#
# Of `up`, the rows behind a gate that is not positive are multiplied by zero; of `down`, the columns whose activation
# was quantized to zero. Counted over TOKENS=32 decoded tokens, after a prompt that does not count.
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
need_json_pp

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

# measure_ceiling: sets CEILING, and appends it to $work/ceilings.
measure_ceiling() {
    "$INSTRUMENT" doctor --quiet --json --threads "$THREADS" >"$work/doctor" || die "bitnet doctor failed"
    CEILING=$(number multiplies_per_s "$work/doctor")
    echo "$CEILING" >>"$work/ceilings"
}

# measure_rate N: profiles a prompt of N tokens; sets RATE, and appends it to $work/rates.N.
measure_rate() {
    unset_switches "$INSTRUMENT" profile --quiet --json --model "$MODEL" --tokens "$(prompt "$1")" -n 1 \
        --threads "$THREADS" >"$work/profile" || die "bitnet profile failed"
    perl -MJSON::PP -e '
        my ($threads, $speeds) = @ARGV;
        my $profile = decode_json(do { local $/; <STDIN> });
        my ($row) = grep { $_->{name} eq "matrix" } @{ $profile->{operations} };
        die "no products in the profile\n" unless $row && $row->{macs} > 0;
        my $ms = 0;
        $ms += $_->{total_ms} for grep { $_->{name} =~ /^matrix(?:_prepare)?$/ } @{ $profile->{operations} };
        printf "%.6g\n", $row->{macs} / $ms * 1e3 * $threads;
        open my $out, ">>", $speeds or die "$speeds: $!\n";
        printf $out "%.6g\n", $profile->{prompt}{tok_per_s};
    ' "$THREADS" "$work/speeds.$1" <"$work/profile" >"$work/rate" || die "no rate in the profile"
    RATE=$(<"$work/rate")
    echo "$RATE" >>"$work/rates.$1"
}

# share RATE CEILING CEILING: of the larger one.
share() {
    awk -v rate="$1" -v a="$2" -v b="$3" 'BEGIN { printf "%.4f\n", rate / (a + 0 > b + 0 ? a : b) }'
}

ask_engine "$INSTRUMENT"
measure_ceiling
for ((round = 1; round <= rounds; round++)); do
    say "round $round of $rounds"
    for n in 128 512; do
        before=$CEILING
        measure_rate "$n"
        measure_ceiling
        share "$RATE" "$before" "$CEILING" >>"$work/shares.$n"
    done
done

# zeros MODEL FLAG...: counted in one model's decode, as a JSON object. A thread's span of a product by rows counts the
# zeros of all columns for its rows, one of a product by columns those of its columns for all rows; so both are weighed
# by the rows they are for. The prompt ends with the first span `forward`.
zeros() {
    local model=$1
    shift
    "$INSTRUMENT" inspect --json "$model" >"$work/inspect" || die "$(shown "$model") cannot be inspected"
    unset_switches "$INSTRUMENT" profile --quiet --model "$model" "$@" -n "$((tokens + 1))" --threads "$THREADS" \
        --trace "$work/trace" --force >/dev/null || die "bitnet profile failed on $(shown "$model")"
    count_zeros "$(shown "$model")" "$tokens" "$work/inspect" "$work/trace" || die "no zeros in the trace of $(shown "$model")"
}

# count_zeros NAME TOKENS INSPECT TRACE
count_zeros() {
    perl -MJSON::PP -e '
        my ($name, $tokens, $inspect, $trace) = @ARGV;
        open my $in, "<", $inspect or die "$inspect: $!\n";
        my %rows = map { $_->{name} => $_->{shape}[0] } @{ decode_json(do { local $/; <$in> })->{tensors} };
        open $in, "<", $trace or die "$trace: $!\n";
        my @lines = <$in>;
        my ($begun, $prompt);
        for (@lines) {
            next unless /"name":"forward",.*"ts":([0-9.]+),"dur":([0-9.]+)/;
            ($begun, $prompt) = ($1, $1 + $2) if !defined $begun || $1 < $begun;
        }
        defined $prompt or die "no forward in the trace\n";
        my ($gates, $open, $values, $zeros) = (0) x 4;
        for (@lines) {
            next unless /"cat":"bitnet_core::model::matrix::(?:product|skip)"/;
            next unless /"ts":([0-9.]+)/ && $1 >= $prompt;
            if (/"rows":(\d+),"open":(\d+)/) { $gates += $1; $open += $2 }
            if (/ffn_down\.weight","rows":(\d+),.*"macs":(\d+),"zeros":(\d+)/) { $values += $2; $zeros += $1 * $3 }
            if (/"tensor":"([^"]*ffn_down\.weight)","cols":(\d+),"zeros":(\d+)/) {
                my $rows = $rows{$1} or die "$1: no such tensor\n";
                $values += $rows * $2;
                $zeros += $rows * $3;
            }
        }
        $gates && $values or die "no gates or no activations in the trace\n";
        printf qq({ "model": %s, "tokens": %d, "gates_closed": %.4f, "activations_of_down_zero": %.4f }),
            JSON::PP->new->allow_nonref->encode($name), $tokens, 1 - $open / $gates, $zeros / $values;
    ' "$@"
}

of_model=$(zeros "$MODEL" "${INPUT[@]}")
of_demo=$(zeros "$ROOT/bitnet-cli/assets/demo.gguf" -p "2+2=")

# list FILE: the numbers in it, for JSON.
list() {
    paste -s -d, "$1" | sed 's/,/, /g'
}

# part N: the samples of prompts of N tokens, as a JSON object.
part() {
    local rate share shares samples speeds
    rate=$(median "$work/rates.$1")
    share=$(median "$work/shares.$1")
    shares=$(list "$work/shares.$1")
    samples=$(list "$work/rates.$1")
    speeds=$(list "$work/speeds.$1")
    echo "    { \"prompt\": $1, \"multiplies_per_s\": $rate, \"of_ceiling\": $share,"
    echo "      \"shares\": [$shares],"
    echo "      \"samples\": [$samples],"
    echo "      \"prompt_tok_per_s\": [$speeds] }$2"
    awk -v share="$share" 'BEGIN { exit !(share >= 0.88) }' || touch "$work/missed"
}

ceilings=$(list "$work/ceilings")
{
    echo "{"
    json_header layers
    json_model
    echo '  "features": "instrument",'
    member command "$INVOKED"
    json_binaries "$INSTRUMENT"
    echo "  \"rounds\": $rounds,"
    member unit "multiply-adds of int8 per second, all threads together"
    member order "a ceiling; then in each round a prompt of 128, a ceiling, a prompt of 512, a ceiling"
    member share "of the larger of the ceilings before and after; of_ceiling is their median"
    echo "  \"ceilings\": [$ceilings],"
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
[[ ! -e $work/missed ]] || die "less than 88 % of the ceiling; see the receipt"
