#!/usr/bin/env bash
# Builds the C library and installs it: libraries, header, CMake package and pkg-config file.
#
#   capi/install.sh --prefix DIR                                  for this machine: libsarit.a and libsarit.so
#   capi/install.sh --prefix DIR --freestanding --target TRIPLE   for one without an operating system: libsarit.a
#
# Options of cargo may follow `--`. CARGO, LD and OBJCOPY name other programs than cargo and the binutils of the target.
set -euo pipefail

usage() {
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    exit "$1"
}

prefix='' target='' freestanding=''
while [ $# -gt 0 ]; do
    case $1 in
        --prefix) prefix=${2:?--prefix needs a folder} && shift ;;
        --target) target=${2:?--target needs a triple} && shift ;;
        --freestanding) freestanding=1 ;;
        --help) usage 0 ;;
        --) shift && break ;;
        *) usage 2 >&2 ;;
    esac
    shift
done
[ -n "$prefix" ] || usage 2 >&2
mkdir -p "$prefix"
prefix=$(cd "$prefix" && pwd)
cd "$(dirname "$0")"

profile=release features=() libs='-lgcc_s -lutil -lrt -lpthread -lm -ldl'
if [ -n "$freestanding" ]; then profile=freestanding features=(--no-default-features) libs=''; fi
version=$(sed -n 's/^version = "\(.*\)"/\1/p' ../Cargo.toml | head -1)
abi=$(sed -n 's/^#define SARIT_ABI_VERSION \([0-9]*\)/\1/p' include/sarit.h)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

build() { # CRATE-TYPE RUSTC-OPTION...: builds the library, and prints where it is
    local kind=$1
    shift
    "${CARGO:-cargo}" rustc -q -p sarit-capi --lib --profile "$profile" "${features[@]}" ${target:+--target "$target"} \
        --crate-type "$kind" --message-format json "${extra[@]}" -- "$@" |
        sed -n 's/.*"filenames":\["\([^"]*libsarit\.\(a\|so\)\)".*/\1/p' | tail -1
}

tool() { # NAME: the binutils of the target, or those of Rust
    case $target in
        thumb* | arm*-none-*) local cross=arm-none-eabi- ;;
        aarch64-unknown-linux-*) local cross=aarch64-linux-gnu- ;;
        riscv*) local cross=riscv64-unknown-elf- ;;
        *) local cross= ;;
    esac
    command -v "$cross$1" && return
    local rust
    rust=$(echo "$("${RUSTC:-rustc}" --print sysroot)"/lib/rustlib/*/bin)
    case $1 in
        ld) echo "$rust/gcc-ld/ld.lld" ;;
        objcopy) echo "$rust/rust-objcopy" ;;
    esac
}

extra=("$@")
archive=$(build staticlib)
install -d "$prefix/lib/pkgconfig" "$prefix/lib/cmake/sarit" "$prefix/include"

# One object of which only sarit_* can be seen: what else is in it cannot meet the program's own symbols.
roots=() absent='^$'
if [ -n "$freestanding" ]; then absent='^sarit_(un)?map$'; fi
for symbol in $(sed -n 's/^[^ *].*\b\(sarit_[a-z_]*\)(.*/\1/p' include/sarit.h | grep -vE "$absent"); do
    roots+=(-u "$symbol")
done
"${LD:-$(tool ld)}" -r --gc-sections "${roots[@]}" -o "$work/whole.o" --whole-archive "$archive"
"${OBJCOPY:-$(tool objcopy)}" --wildcard --keep-global-symbol='sarit_*' --strip-debug \
    --remove-section='.llvmbc' --remove-section='.llvmcmd' "$work/whole.o" "$work/sarit.o"
rm -f "$prefix/lib/libsarit.a"
"${AR:-ar}" rcs "$prefix/lib/libsarit.a" "$work/sarit.o"

if [ -z "$freestanding" ]; then
    shared=$(build cdylib -C link-arg="-Wl,-soname,libsarit.so.$abi" -C strip=debuginfo)
    install -m 755 "$shared" "$prefix/lib/libsarit.so.$abi"
    ln -sf "libsarit.so.$abi" "$prefix/lib/libsarit.so"
fi

fill() { # TEMPLATE DESTINATION
    sed -e "s/@SARIT_VERSION@/$version/" -e "s/@SARIT_ABI@/$abi/" -e "s/@SARIT_LIBS@/$libs/" \
        -e "s/@SARIT_LIBS_CMAKE@/${libs// /;}/" "$1" >"$2"
}
install -m 644 include/sarit.h "$prefix/include"
fill sarit.pc.in "$prefix/lib/pkgconfig/sarit.pc"
fill cmake/saritConfig.cmake.in "$prefix/lib/cmake/sarit/saritConfig.cmake"
fill cmake/saritConfigVersion.cmake.in "$prefix/lib/cmake/sarit/saritConfigVersion.cmake"
