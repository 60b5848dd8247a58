#!/usr/bin/env bash
# arm64_sysroot.sh FOLDER: the arm64 libraries and headers that skiff links with, from Debian's archive, unpacked into FOLDER. Nothing is installed: the
# package lists are read into FOLDER with an apt configuration of their own, so neither the system's architectures nor its packages change, and no
# administrator is needed. A folder that is complete for today's list of packages is left as it is.
set -euo pipefail
folder=${1:?usage: arm64_sysroot.sh FOLDER}
# The -dev packages hold the static libraries; the libraries that their CMake files name must exist too.
packages=(libfmt-dev libfmt9 libpcre2-dev libpcre2-8-0 libutf8proc-dev libutf8proc2 libzstd-dev libzstd1 libssl-dev libssl3 libgtest-dev nlohmann-json3-dev libcli11-dev)

fail() { echo "arm64_sysroot: $*" >&2; exit 1; }

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
[ "$(cat "$folder/packages" 2>/dev/null)" != "${packages[*]}" ] || exit 0
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
    fail "not a Debian system: put the arm64 builds of these packages into $folder/usr, and their names into $folder/packages: ${packages[*]}"

work=$(mktemp -d "$folder/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/debs"
: >"$work/status"
apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o APT::Sandbox::User="$(id -un)" -o Dir::State::lists="$work/lists"
     -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache" -o Debug::NoLocking=1 -o Acquire::Languages=none)
"${apt[@]}" update >&2 || fail "the arm64 package lists could not be read (see /etc/apt/sources.list; Ubuntu keeps arm64 on another server)"
(cd "$work/debs" && "${apt[@]}" download "${packages[@]}" >&2) || fail "not all of these packages could be downloaded for arm64: ${packages[*]}"
rm -rf "$folder/usr"
for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$work/root"; done
mv "$work/root/usr" "$folder/usr"
echo "${packages[*]}" >"$folder/packages"
