#!/usr/bin/env bash
# packages.sh COMMAND...   Installs the Debian packages of commands that are missing.
# Ends with an error that names what is missing still, and how a person gets it.
set -uo pipefail

missing() { # the packages of the commands that are not here
  local command
  for command in "$@"; do
    PATH=$PATH:/usr/local/sbin:/usr/sbin command -v "$command" >/dev/null && continue
    case $command in
      protoc) echo protobuf-compiler ;;
      llvm-*) echo llvm ;;
      *) echo "$command" ;;
    esac
  done
}

mapfile -t packages < <(missing "$@")
[ ${#packages[@]} -gt 0 ] || exit 0
refuse() { echo "not installed: ${packages[*]}: $1" >&2; exit 1; }
command -v apt-get >/dev/null || refuse "install them with this system's own package manager"
[ "$(id -u)" = 0 ] || refuse "apt-get install ${packages[*]}"

echo "installing ${packages[*]}"
log=$(mktemp)
# A package that brings a server starts it: where there is no init system that fails, and dpkg with
# it; where there is one, the server takes the port that a person may want. 101 forbids the start.
policy=/usr/sbin/policy-rc.d made=
if ! [ -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made=1
fi
trap 'rm -f "$log"; [ -z "$made" ] || rm -f $policy' EXIT
# apt unpacks by way of TMPDIR; /tmp may be cleared by others while it does.
export DEBIAN_FRONTEND=noninteractive TMPDIR=/var/tmp
apt=(apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
for try in 1 2; do
  {
    # An earlier installation may have been cut short.
    timeout -k 10 300 dpkg --configure -a
    timeout -k 10 300 "${apt[@]}" update
    timeout -k 10 300 "${apt[@]}" install -f
    timeout -k 10 900 "${apt[@]}" install --no-install-recommends "${packages[@]}"
  } </dev/null >"$log" 2>&1
  # What counts is that the commands are there, whatever dpkg says of other packages.
  mapfile -t packages < <(missing "$@")
  [ ${#packages[@]} -gt 0 ] || exit 0
  echo "try $try did not bring ${packages[*]}" >&2
done
tail -n 15 "$log" >&2
refuse "apt-get has failed, see above"
