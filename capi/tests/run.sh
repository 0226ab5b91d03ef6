#!/usr/bin/env bash
# Installs the library into a temporary folder and builds and runs C and C++ programs with it, outside of the source tree.
# Needs cargo, gcc, g++, cmake, pkg-config and valgrind. The last line counts the tests.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

check() { # NAME COMMAND...
    if "${@:2}" >"$work/log" 2>&1; then
        passed=$((passed + 1))
        echo "ok      $1"
    else
        failed=$((failed + 1))
        echo "FAILED  $1"
        sed 's/^/        /' "$work/log"
    fi
}

same() { [ "$("${@:2}")" = "$1" ]; }

# A line for each symbol that can be seen from outside and is not Sarit's.
foreign() { grep -vE '^sarit_[a-z_]+$' || true; }
defined() { nm -g --defined-only --format=posix "$@" | awk 'NF > 1 { print $1 }'; }
only_sarit() { # NM-ARGUMENT...: its symbols, if there are enough of them and no others
    local symbols
    symbols=$(defined "$@")
    [ "$(wc -l <<<"$symbols")" -ge 20 ] && [ -z "$(foreign <<<"$symbols")" ]
}
no_allocator() {
    local wanted
    wanted=$(nm -u "$1")
    ! grep -wE "malloc|calloc|realloc|free|posix_memalign|aligned_alloc|__rust_alloc|__rdl_alloc" <<<"$wanted"
}

echo "building"
capi/install.sh --prefix "$work/prefix"
capi/install.sh --prefix "$work/freestanding" --freestanding
sarit=${SARIT:-"cargo run -q -p sarit --"}
$sarit convert tests/golden-frames/mambalite-kws -o "$work/kws.sarit" --weights q8 >"$work/log" 2>&1
$sarit convert tests/golden/mamba-tiny -o "$work/tokens.sarit" --weights q8 >"$work/log" 2>&1
python3 - tests/golden-frames/mambalite-kws/golden.safetensors "$work" <<'PYTHON'
import json, struct, sys
data = open(sys.argv[1], "rb").read()
start = 8 + struct.unpack("<Q", data[:8])[0]
begin, end = json.loads(data[8:start])["input"]["data_offsets"]
floats = data[start + begin:start + end]
open(sys.argv[2] + "/input", "wb").write(floats)
numbers = struct.unpack(f"<{len(floats) // 4}f", floats)
rows = [",".join(map(repr, numbers[i:i + 40])) for i in range(0, len(numbers), 40)]
open(sys.argv[2] + "/rows.csv", "w").write("\n".join(rows * 100) + "\n")
PYTHON
hash_of() { # CSV: the state's hash after its rows, by the command
    $sarit stream "$work/kws.sarit" --csv "$1" --json 2>"$work/log" | sed -n 's/.*"state_hash":"\([0-9a-f]*\)".*/\1/p' ||
        { cat "$work/log" >&2; return 1; }
}
expected=$(hash_of "$work/rows.csv")
head -100 "$work/rows.csv" >"$work/once.csv"
expected_once=$(hash_of "$work/once.csv")

prefix=$work/prefix
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig LD_LIBRARY_PATH=$prefix/lib
warnings=(-std=c11 -Wall -Wextra -Wpedantic -Werror -O1 -g)
read -ra shared <<<"$(pkg-config --cflags --libs sarit)"
read -ra cflags <<<"$(pkg-config --cflags sarit)"
read -ra private <<<"$(pkg-config --static --libs-only-l sarit | sed 's/-lsarit//')"
static=("${cflags[@]}" "$prefix/lib/libsarit.a" "${private[@]}")
bare=(-I"$work/freestanding/include" "$work/freestanding/lib/libsarit.a")

check "libsarit.a shows only sarit_*" only_sarit "$prefix/lib/libsarit.a"
check "libsarit.so shows only sarit_*" only_sarit -D "$prefix/lib/libsarit.so"
check "the freestanding libsarit.a shows only sarit_*" only_sarit "$work/freestanding/lib/libsarit.a"
check "the freestanding libsarit.a asks for no allocator" no_allocator "$work/freestanding/lib/libsarit.a"
check "the header is C99" gcc -std=c99 -Wall -Wextra -Wpedantic -Werror -fsyntax-only -x c "$prefix/include/sarit.h"
check "the header is C++11" g++ -std=c++11 -Wall -Wextra -Wpedantic -Werror -fsyntax-only -x c++ "$prefix/include/sarit.h"

cd "$work"
build() { # NAME OPTION...
    check "build $1" gcc "${warnings[@]}" "$root/capi/tests/${1%%-*}.c" -o "$work/$1" "${@:2}" -lm
}
build bad_input-static "${static[@]}"
build bad_input-shared "${shared[@]}"
build bad_input-asan -fsanitize=address,undefined "${static[@]}"
build steps-static "${static[@]}"
build steps-shared "${shared[@]}"
build steps-freestanding "${bare[@]}"
build threads-static "${static[@]}" -pthread
build threads-asan -fsanitize=address "${static[@]}" -pthread

grind=(valgrind -q --error-exitcode=9 --leak-check=full)
for way in static shared asan; do
    check "bad input, $way" "$work/bad_input-$way" kws.sarit tokens.sarit
done
check "bad input, valgrind" "${grind[@]}" "$work/bad_input-static" kws.sarit tokens.sarit
for way in static shared freestanding; do
    check "10,000 steps without an allocation, $way" same "$expected" "$work/steps-$way" kws.sarit input
done
for way in static asan; do check "threads, $way" "$work/threads-$way" kws.sarit input; done
check "threads, valgrind" "${grind[@]}" "$work/threads-static" kws.sarit input

# The examples as a project of their own, through find_package.
cp -r "$root/capi/examples" "$work/project"
check "cmake" cmake -S "$work/project" -B "$work/built" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_BUILD_TYPE=Debug
check "cmake --build" cmake --build "$work/built"
last_hash() { "$work/built/frames" kws.sarit <once.csv | sed -n 's/^state //p'; }
check "the C example" same "$expected_once" last_hash
check "the C example, valgrind" "${grind[@]}" "$work/built/frames" kws.sarit <once.csv
greedy=$("$work/built/tokens" tokens.sarit 5 1 2 3 || true)
check "the C++ example" test "$(wc -l <<<"$greedy")" = 5
check "the C++ example, valgrind" same "$greedy" "${grind[@]}" "$work/built/tokens" tokens.sarit 5 1 2 3
check "the C++ example says what is wrong" same "tokens: the bytes are not a .sarit model" \
    bash -c "'$work/built/tokens' once.csv 5 1 2>&1 || true"

echo "test result: $passed passed; $failed failed"
[ "$failed" = 0 ]
