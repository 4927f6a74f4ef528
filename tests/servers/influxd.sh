#!/usr/bin/env bash
# Builds InfluxDB 2.7.12 (the server, without its web pages) into the tests' cache, once.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
version=2.7.12
cache=${TIANYU_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tianyu-tests}/influxd-$version
[ -x "$cache/influxd" ] && exit 0
if found=$(command -v influxd) && "$found" version 2>/dev/null | grep -Eq 'InfluxDB v?2\.([7-9]|[1-9][0-9])'; then
  mkdir -p "$cache"; ln -sf "$found" "$cache/influxd"; exit 0
fi
command -v go >/dev/null || { echo "InfluxDB cannot be built: no go" >&2; exit 1; }
missing=
for tool in clang protoc pkg-config; do command -v $tool >/dev/null || missing=1; done
if [ -n "$missing" ]; then
  [ "$(id -u)" = 0 ] || { echo "InfluxDB cannot be built: install clang protobuf-compiler pkg-config" >&2; exit 1; }
  apt-get -qq update >/dev/null
  apt-get -y -qq install --no-install-recommends clang protobuf-compiler pkg-config >/dev/null 2>&1 || true
  for tool in clang protoc pkg-config; do
    command -v $tool >/dev/null || { echo "InfluxDB cannot be built: $tool cannot be installed" >&2; exit 1; }
  done
fi
echo "building InfluxDB $version (about 4 minutes, once)"
mkdir -p "$cache"
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
GOBIN=$work go install github.com/influxdata/pkg-config@v0.2.14
# libflux is Rust that pins an old compiler and denies warnings that newer ones have.
printf '#!/bin/sh\nexec "$@" --cap-lints warn\n' >"$work/rustc-wrapper"; chmod +x "$work/rustc-wrapper"
toolchain=$(rustup show active-toolchain 2>/dev/null | awk '{print $1}')
cd "$here/influxd"
PKG_CONFIG=$work/pkg-config RUSTC_WRAPPER=$work/rustc-wrapper RUSTUP_TOOLCHAIN=${toolchain:-} \
  go build -tags sqlite_foreign_keys,sqlite_json -o "$work/influxd" github.com/influxdata/influxdb/v2/cmd/influxd
mv "$work/influxd" "$cache/influxd"
