#!/usr/bin/env bash
# Installs what a make target needs: setup.sh run|bench|dist|arm64|test. Only missing packages, never removes one. `explain` says what is missing and fails.
set -uo pipefail

required_run=(g++ cmake ninja-build pkg-config libfmt-dev nlohmann-json3-dev libcli11-dev libpcre2-dev libutf8proc-dev libyaml-cpp-dev
              libssl-dev libxxhash-dev libzstd-dev libhwloc-dev libopenblas0-openmp)
required_test=(libgtest-dev)
optional_bench=(libbenchmark-dev jq)
required_dist=(xz-utils)
required_arm64=(g++-aarch64-linux-gnu)
# Fuzz targets; the tests on other processors, which build for arm64 and emulate; AVX-512 without it. Training: LibTorch and what several ranks meet through, and a BLAS, because the one that
# LibTorch draws in is the reference implementation, thirty times slower. Without one of them (not every distribution has LibTorch) its tests are skipped.
optional_test=(clang libclang-rt-dev qemu-user g++-aarch64-linux-gnu libsimde-dev libtorch-dev libgloo-dev)

say() { printf 'setup: %s\n' "$*" >&2; }

is_installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

list_missing() {
    local package
    for package in "$@"; do is_installed "$package" || printf '%s ' "$package"; done
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

can_be_root() { [ "$(id -u)" = 0 ] || command -v sudo >/dev/null; }

update_lists() {
    say "reading the package lists (apt-get update)"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 update
}

# Recommended packages are left out, and an install that would remove something is refused.
install_packages() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends --no-remove -o DPkg::Lock::Timeout=300 \
        -o Dpkg::Use-Pty=0 install "$@" 2>&1 >/dev/null | grep -v '^debconf: delaying' >&2
    return "${PIPESTATUS[0]}"
}

install_or_refresh() {
    say "installing: $*"
    if ! compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null; then update_lists || true; fi
    install_packages "$@" && return
    update_lists && install_packages "$@"
}

target=${1:-run}
[ "$target" = explain ] && { explain=yes; target=${2:-run}; }
required=("${required_run[@]}")
optional=()
if [ "$target" = dist ]; then required+=("${required_dist[@]}"); fi
if [ "$target" = arm64 ]; then required+=("${required_arm64[@]}"); fi
if [ "$target" = bench ]; then optional=("${optional_bench[@]}"); fi
if [ "$target" = test ]; then
    required+=("${required_test[@]}")
    optional=("${optional_test[@]}")
fi

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    if [ -n "${explain:-}" ]; then
        say "this is not a Debian system. Install the equivalents of these packages, then try again: ${required[*]}"
        exit 1
    fi
    exit 0  # CMake will look for everything itself
fi

read -ra missing <<<"$(list_missing "${required[@]}")"
read -ra missing_optional <<<"$(list_missing "${optional[@]}")"

if [ -n "${explain:-}" ]; then
    if [ ${#missing[@]} = 0 ]; then
        say "every package is installed; the message of CMake above says what is wrong"
    else
        say "configuring failed and these packages are missing: ${missing[*]}"
        say "as an administrator: apt-get update && apt-get install --no-install-recommends ${missing[*]}"
    fi
    exit 1
fi

[ ${#missing[@]} = 0 ] && [ ${#missing_optional[@]} = 0 ] && exit 0

if ! can_be_root; then
    say "not root and no sudo, so these packages cannot be installed here: ${missing[*]} ${missing_optional[*]}"
    say "an administrator can: apt-get update && apt-get install --no-install-recommends ${missing[*]} ${missing_optional[*]}"
    say "going on with what there is"
    exit 0
fi

if [ ${#missing[@]} != 0 ]; then
    install_or_refresh "${missing[@]}" || { say "apt-get could not install: ${missing[*]}; going on with what there is"; exit 0; }
fi
[ ${#missing_optional[@]} = 0 ] || install_or_refresh "${missing_optional[@]}" && exit 0
for package in "${missing_optional[@]}"; do
    install_or_refresh "$package" || say "without $package: what needs it is skipped"
done
