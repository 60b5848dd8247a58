#!/usr/bin/env bash
# dist.sh PROGRAM: out/skiff-VERSION.tar.gz (the source) and out/skiff-VERSION-linux-ARCH.tar.gz (the program, the model, the texts), with SHA256SUMS.
# skiff-train stays out: it runs only with the LibTorch that it was linked with, and its many libraries. README.md says how to build it.
# The archives have fixed times, owners and order: the same commit and compiler give the same bytes.
set -euo pipefail
cd "$(dirname "$0")/.."
program=$1
version=$(sed -n 's/^project(skiff VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
out=$PWD/out
name=skiff-$version-linux-$(uname -m)
if ! time=$(git log -1 --format=%ct 2>/dev/null); then
    echo "dist: needs a git checkout" >&2
    exit 1
fi
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p "$out" "$stage/$name/bin"
install -m755 "$program" "$stage/$name/bin/skiff"
strip --strip-unneeded "$stage/$name/bin/skiff"
for file in README.md README.zh-CN.md LICENSE CHANGELOG.md SECURITY.md docs models; do
    [ -e "$file" ] && cp -r --parents "$file" "$stage/$name/"
done
ldd "$stage/$name/bin/skiff" | awk '{ print $1 }' | grep -vE '^(linux-vdso|/lib)' | LC_ALL=C sort >"$stage/$name/LIBRARIES"  # what the system must have
git archive --format=tar --prefix="skiff-$version/" HEAD | gzip -n9 >"$out/skiff-$version.tar.gz"
tar -C "$stage" --sort=name --mtime="@$time" --owner=0 --group=0 --numeric-owner -cf - "$name" | gzip -n9 >"$out/$name.tar.gz"
(cd "$out" && sha256sum "skiff-$version.tar.gz" "$name.tar.gz" | tee SHA256SUMS)
