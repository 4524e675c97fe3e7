# shellcheck shell=bash
# What the scripts share: where things are, how to fail, and what a receipt must say to be believed.
# Sourced, never run.
# shellcheck disable=SC2034  # most of its variables are for the scripts that source it

shopt -s inherit_errexit # a command that fails inside $(...) fails the script, too

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd) # with CDPATH set, cd may print
RECEIPTS=${BITNET_RECEIPTS:-$ROOT/receipts} # .ci/run has its own, so that the committed ones stay as they are
PLAIN=$ROOT/target-plain/release/bitnet
INSTRUMENT=$ROOT/target-instrument/release/bitnet
PUBLISHED=$ROOT/models/microsoft-bitnet-b1.58-2B-4T-gguf/ggml-model-i2_s.gguf # where README.md puts it

die() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

say() {
    echo "$*" >&2
}

# Prints the leading comment of the calling script, which is its help.
help_and_exit() {
    sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$0"
    exit 0
}

# borrow_dependencies DIR: gives a new target directory what the plain variant's has of dependencies, so that they are
# compiled once for all release builds. Where it has none, or of other flags, cargo compiles them.
borrow_dependencies() {
    local from=$ROOT/target-plain/release to=$1/release
    [[ -d $from/.fingerprint && ! -e $to ]] || return 0
    mkdir -p "$to"
    cp -R -p "$from/build" "$from/deps" "$from/.fingerprint" "$to"
    rm -rf "$to"/.fingerprint/bitnet-* "$to"/deps/*bitnet*
}

# build plain|instrument: a release binary in the variant's own target directory.
build() {
    local features=()
    if [[ $1 == instrument ]]; then
        features=(--features instrument)
        borrow_dependencies "$ROOT/target-instrument"
    fi
    say "building the $1 variant in target-$1"
    (cd "$ROOT" && cargo build --quiet --locked --release --bin bitnet "${features[@]}" --target-dir "target-$1") \
        || die "the $1 variant does not build"
}

# python_with NAME PACKAGE...: sets PYTHON to an interpreter of target/NAME-venv that has these packages, made anew when
# the list changes.
python_with() {
    local venv=$ROOT/target/$1-venv
    shift
    PYTHON=$venv/bin/python
    [[ -e $venv/ready && $(<"$venv/ready") == "$*" ]] && return
    say "installing $* into $(shown "$venv")"
    rm -rf "$venv"
    python3 -m venv "$venv" || die "python3 cannot make a virtual environment (Debian: apt install python3-venv)"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check "$@" || die "pip cannot install $*"
    echo "$*" >"$venv/ready"
}

# choose_model [MODEL] [TOKENIZER]: sets MODEL, MODEL_IS, and INPUT, the flags that give `run` its prompt. The demo model
# stands in for the published one because what it says depends on its logits: a synthesized one repeats the last token.
choose_model() {
    local demo=$ROOT/bitnet-cli/assets/demo.gguf
    local tokenizer=${2:-}
    INPUT=(-p "The capital of France is")
    if [[ -n ${1:-} ]]; then
        [[ -f $1 ]] || die "$1: no such model file"
        MODEL=$(CDPATH='' cd -- "$(dirname -- "$1")" && pwd)/$(basename -- "$1")
        MODEL_IS="given"
        INPUT=(--tokens "1,2,3,4,5,6,7,8") # it may have no vocabulary
    elif [[ -f $PUBLISHED ]]; then
        MODEL=$PUBLISHED
        MODEL_IS="microsoft/bitnet-b1.58-2B-4T-gguf"
    else
        MODEL=$demo
        MODEL_IS="the demo model, as there is no model under models/"
        [[ -f $MODEL ]] || die "$MODEL: no such model file; give one"
    fi
    if [[ -z $tokenizer && -f $(dirname -- "$MODEL")/tokenizer.json ]]; then
        tokenizer=$(dirname -- "$MODEL")/tokenizer.json
    fi
    if [[ -n $tokenizer ]]; then
        [[ -f $tokenizer ]] || die "$tokenizer: no such tokenizer file"
        INPUT=(--tokenizer "$tokenizer" -p "The capital of France is")
    fi
    say "model: $MODEL ($MODEL_IS)"
}

# choose_model_or_synth [MODEL]: as choose_model, but a synthesized one of the 2B-4T shape where none is given: speed
# does not depend on what the weights say. Needs the instrumented variant.
choose_model_or_synth() {
    if [[ -n ${1:-} ]]; then
        choose_model "$1"
        return
    fi
    MODEL=$ROOT/target-instrument/synth-2b4t-1.gguf
    MODEL_IS="synthesized: bitnet synth --shape 2b4t --seed 1"
    INPUT=(--tokens "1,2,3,4,5,6,7,8")
    [[ -s $MODEL ]] || "$INSTRUMENT" synth --quiet --shape 2b4t --seed 1 "$MODEL" || die "cannot synthesize a model"
}

# ask_engine BINARY: sets ISA and THREADS to those with which the binary computes MODEL when no flag chooses.
ask_engine() {
    local json
    json=$(unset_switches "$1" run --model "$MODEL" "${INPUT[@]}" -n 1 --greedy --quiet --json) \
        || die "$(shown "$1") cannot run $(shown "$MODEL")"
    ISA=$(sed -n 's/.*"isa":"\([a-z0-9]*\)".*/\1/p' <<<"$json")
    THREADS=$(sed -n 's/.*"threads":\([0-9]*\).*/\1/p' <<<"$json")
    [[ -n $ISA && -n $THREADS ]] || die "no isa or no threads in the JSON of $(shown "$1") run"
}

# bench_of NAME FLAG...: builds a bench of the engine and prints the path of its executable, which `run_bench` runs.
bench_of() {
    local name=$1 path
    shift
    path=$(cd "$ROOT" && cargo bench --quiet --locked -p bitnet-core --bench "$name" "$@" --no-run \
        --message-format json-render-diagnostics \
        | sed -n 's/.*"kind":\["bench"\].*"executable":"\([^"]*\)".*/\1/p') || die "the bench $name does not build"
    [[ -x $path ]] || die "cargo names no executable of the bench $name"
    echo "$path"
}

# run_bench EXECUTABLE ARGUMENT...: as `cargo bench` does.
run_bench() {
    (cd "$ROOT/bitnet-core" && "$1" --bench "${@:2}")
}

# need_json_pp: perl alone is not enough for what reads JSON.
need_json_pp() {
    perl -MJSON::PP -e 1 2>/dev/null || die "perl has no JSON::PP (Debian: apt install perl)"
}

# unset_switches COMMAND...: runs it with every switch unset.
unset_switches() {
    env -u BITNET_PARITY -u BITNET_TRACE_QUANT -u BITNET_TRACE_TIMING -u BITNET_TRACE_FILE "$@"
}

sha256() {
    if command -v sha256sum >/dev/null; then
        sha256sum <"$1" | cut -d' ' -f1
    else
        shasum -a 256 <"$1" | cut -d' ' -f1
    fi
}

size() {
    wc -c <"$1" | tr -d ' '
}

# A path as a reader elsewhere understands it: relative to the repository, or only the file's name.
shown() {
    case $1 in
        "$ROOT"/*) echo "${1#"$ROOT"/}" ;;
        *) basename "$1" ;;
    esac
}

# A command as it was run, with paths as `shown` has them.
shown_command() {
    local word out=()
    for word in "$@"; do
        [[ $word == /* ]] && word=$(shown "$word")
        [[ $word == *[\ \"\']* ]] && word="'$word'"
        out+=("$word")
    done
    echo "${out[*]}"
}

commit() {
    git -C "$ROOT" rev-parse HEAD 2>/dev/null || echo unknown
}

# Whether anything but receipts differs from the commit; null where git cannot tell.
dirty() {
    local changes
    if ! changes=$(git -C "$ROOT" status --porcelain -- . ':!receipts' 2>/dev/null); then
        echo null
    elif [[ -z $changes ]]; then
        echo false
    else
        echo true
    fi
}

cpu() {
    local model=""
    if [[ -r /proc/cpuinfo ]]; then
        model=$(sed -n '/^model name/{s/^[^:]*: //p;q;}' /proc/cpuinfo)
    elif command -v sysctl >/dev/null; then
        model=$(sysctl -n machdep.cpu.brand_string 2>/dev/null || true)
    fi
    echo "${model:-$(uname -m)}"
}

# What tells CPUs of one name apart, on x86: "AMD EPYC" is the name of several.
cpu_id() {
    [[ -r /proc/cpuinfo ]] || return 0
    awk -F ' *\t*: *' '
        $1 == "cpu family" || $1 == "model" || $1 == "stepping" {
            sub("^cpu ", "", $1)
            id = id (id == "" ? "" : ", ") $1 " " $2
        }
        $1 == "stepping" { exit }
        END { print id }' /proc/cpuinfo
}

# The instruction sets an ISA choice depends on, as the kernel reports them.
cpu_features() {
    local flags=""
    if [[ -r /proc/cpuinfo ]]; then
        flags=$(grep -m 1 -E '^(flags|Features)' /proc/cpuinfo | grep -o -w -E \
            'avx2|fma|f16c|avx512f|avx512bw|avx512vl|avx512_vnni|avx512vbmi|avx_vnni|asimd|asimddp|sve' \
            | tr '\n' ' ') || true
    fi
    echo "${flags% }"
}

processors() {
    getconf _NPROCESSORS_ONLN 2>/dev/null || echo unknown
}

# text_header NAME: the circumstances, one `key: value` per line.
text_header() {
    local date rustc cpu cpu_id features processors
    date=$(date -u +%Y-%m-%dT%H:%M:%SZ)
    rustc=$(rustc --version)
    cpu=$(cpu)
    cpu_id=$(cpu_id)
    features=$(cpu_features)
    processors=$(processors)
    echo "receipt: $1"
    echo "schema: 1"
    echo "date: $date"
    echo "commit: $COMMIT"
    echo "dirty: $DIRTY"
    echo "rustc: $rustc"
    echo "profile: release"
    echo "cpu: $cpu"
    echo "cpu_id: $cpu_id"
    echo "cpu_features: $features"
    echo "processors: $processors"
}

# text_binary BINARY: which executable was measured.
text_binary() {
    local binary sha256
    binary=$(shown "$1")
    sha256=$(sha256 "$1")
    echo "binary: $binary"
    echo "binary_sha256: $sha256"
}

# The model's part of it, after `choose_model` and `ask_engine`.
text_model() {
    local model sha256 bytes
    model=$(shown "$MODEL")
    sha256=$(sha256 "$MODEL")
    bytes=$(size "$MODEL")
    echo "isa: $ISA"
    echo "threads: $THREADS"
    echo "model: $model ($MODEL_IS)"
    echo "model_sha256: $sha256"
    echo "model_bytes: $bytes"
}

# json TEXT: a JSON string.
json() {
    printf '%s' "$1" | LC_ALL=C tr -d '\000-\037' | sed -e 's/[\\"]/\\&/g' -e 's/^/"/' -e 's/$/"/'
    [[ -n $1 ]] || printf '""'
}

# member NAME TEXT: a member of an object on a line of its own.
member() {
    printf '  "%s": ' "$1"
    json "$2"
    echo ","
}

# json_header NAME: the circumstances, as the first members of an object.
json_header() {
    local date rustc cpu cpu_id features processors
    date=$(date -u +%Y-%m-%dT%H:%M:%SZ)
    rustc=$(rustc --version)
    cpu=$(cpu)
    cpu_id=$(cpu_id)
    features=$(cpu_features)
    processors=$(processors)
    member receipt "$1"
    echo '  "schema": 1,'
    member date "$date"
    member commit "$COMMIT"
    echo "  \"dirty\": $DIRTY,"
    member rustc "$rustc"
    member profile release
    member cpu "$cpu"
    member cpu_id "$cpu_id"
    member cpu_features "$features"
    member processors "$processors"
}

# json_binary BINARY: which executable it was, as members within a line.
json_binary() {
    local binary sha256 bytes
    binary=$(shown "$1")
    sha256=$(sha256 "$1")
    bytes=$(size "$1")
    printf '"binary": '
    json "$binary"
    printf ', "sha256": "%s", "bytes": %s' "$sha256" "$bytes"
}

# json_binaries BINARY...: those that were measured, as a member.
json_binaries() {
    local binary before=""
    echo '  "binaries": ['
    for binary in "$@"; do
        printf '%s    { ' "$before"
        json_binary "$binary"
        printf ' }'
        before=$',\n'
    done
    printf '\n  ],\n'
}

# The model's part of it, after `choose_model` and `ask_engine`.
json_model() {
    local model sha256 bytes
    model=$(shown "$MODEL")
    sha256=$(sha256 "$MODEL")
    bytes=$(size "$MODEL")
    member isa "$ISA"
    echo "  \"threads\": $THREADS,"
    member model "$model ($MODEL_IS)"
    member model_sha256 "$sha256"
    echo "  \"model_bytes\": $bytes,"
}

# write_receipt NAME FILE: the file becomes receipts/NAME, whole or not at all. A file and not a pipe: the right side of
# a pipe cannot know that the left one died halfway.
write_receipt() {
    [[ -s $2 ]] || die "nothing to write into $1"
    mkdir -p "$RECEIPTS"
    cp "$2" "$RECEIPTS/.$1.part"
    mv "$RECEIPTS/.$1.part" "$RECEIPTS/$1"
    say "wrote $(shown "$RECEIPTS/$1")"
}

# The source and the command, as they were before anything was built or measured. Paths as `shown` has them.
COMMIT=$(commit)
DIRTY=$(dirty)
INVOKED=$(shown_command "scripts/$(basename -- "$0")" "$@")
