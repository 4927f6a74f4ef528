#!/usr/bin/env bash
# Builds InfluxDB 2.7.12 (the server, without its web pages) into the tests' cache, once.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
version=2.7.12
cache=${TIANYU_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tianyu-tests}/influxd-$version
[ -x "$cache/influxd" ] && exit 0
mkdir -p "$cache"
# Two runs at once build it once.
exec 9>"$cache/lock"
flock -w 1200 9 || { echo "InfluxDB cannot be built: another run has been building it for 20 minutes" >&2; exit 1; }
[ -x "$cache/influxd" ] && exit 0

if found=$(command -v influxd) && "$found" version 2>/dev/null | grep -Eq 'InfluxDB v?2\.([7-9]|[1-9][0-9])'; then
  ln -sf "$found" "$cache/influxd"
  exit 0
fi
command -v go >/dev/null || { echo "InfluxDB cannot be built: no go, see https://go.dev/dl" >&2; exit 1; }
"$here/packages.sh" clang protoc pkg-config 9>&-

echo "building InfluxDB $version (about 4 minutes, once)"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# What Go and Cargo start must not hold the lock after this script has ended.
GOBIN=$work go install github.com/influxdata/pkg-config@v0.2.14 9>&-
# libflux is Rust that pins an old compiler and denies warnings that newer ones have.
printf '#!/bin/sh\nexec "$@" --cap-lints warn\n' >"$work/rustc-wrapper"
chmod +x "$work/rustc-wrapper"
toolchain=$(rustup show active-toolchain 2>/dev/null | awk '{print $1}') || true
[ -z "$toolchain" ] || export RUSTUP_TOOLCHAIN=$toolchain
cd "$here/influxd"
PKG_CONFIG=$work/pkg-config RUSTC_WRAPPER=$work/rustc-wrapper GOFLAGS=-mod=readonly \
  go build -tags sqlite_foreign_keys,sqlite_json -o "$work/influxd" github.com/influxdata/influxdb/v2/cmd/influxd 9>&-
# On another file system `mv` alone would copy, and a cut copy would look like a server.
cp "$work/influxd" "$cache/influxd.new"
mv "$cache/influxd.new" "$cache/influxd"
