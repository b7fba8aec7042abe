#!/usr/bin/env bash
# Installs what Aspis is built from: system packages, and the engine (MLX) as a
# pinned, hash-checked wheel that is only unzipped. Safe to run again: what is
# there is left alone.
#
#   tools/setup.sh            install what is missing
#   tools/setup.sh --list     only say what would be installed
#
# ASPIS_DEPS   folder for the engine (default: .deps in the repository)
# SUDO         command for system packages when not root (default: sudo)
set -euo pipefail
cd "$(dirname "$0")/.."

list_only=0
case "${1:-}" in
  "") ;;
  --list) list_only=1 ;;
  *) echo "setup: unknown option '$1'; known: --list" >&2; exit 2 ;;
esac

deps="${ASPIS_DEPS:-$PWD/.deps}"
mlx_version=0.32.4
say() { printf 'setup: %s\n' "$*" >&2; }
fail() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }

# --- system packages ---------------------------------------------------------
debian_packages=(
  g++ cmake ninja-build make pkg-config ccache ca-certificates
  python3 python3-pip
  libhwy-dev libdnnl-dev libfmt-dev nlohmann-json3-dev libcli11-dev
  libjpeg62-turbo-dev libpng-dev zlib1g-dev doctest-dev)
# Without it the demo falls back to the built-in shapes; Ubuntu has it too.
debian_data=(dataset-fashion-mnist)
brew_packages=(cmake ninja ccache pkg-config highway fmt nlohmann-json cli11 jpeg-turbo libpng doctest)

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else ${SUDO:-sudo} "$@"; fi
}

setup_debian() {
  local missing=() p
  for p in "${debian_packages[@]}" "${debian_data[@]}"; do
    # Ubuntu names libjpeg-turbo's headers differently.
    if [ "$p" = libjpeg62-turbo-dev ] && dpkg-query -W -f='${Status}' libjpeg-turbo8-dev 2>/dev/null | grep -q 'ok installed'; then
      continue
    fi
    # A Python that is not Debian's own but brings pip serves as well.
    if [ "$p" = python3 ] || [ "$p" = python3-pip ]; then
      if python3 -m pip --version >/dev/null 2>&1; then continue; fi
    fi
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
  done
  if [ ${#missing[@]} = 0 ]; then say "system packages: all there"; return; fi
  say "system packages to install with apt-get: ${missing[*]}"
  [ $list_only = 1 ] && return
  export DEBIAN_FRONTEND=noninteractive
  as_root apt-get update -qq || say "apt-get update failed; going on with the lists at hand"
  # Names differ a little between Debian and Ubuntu releases.
  local wanted=()
  for p in "${missing[@]}"; do
    if apt-cache show "$p" >/dev/null 2>&1; then wanted+=("$p")
    elif [ "$p" = libjpeg62-turbo-dev ]; then wanted+=(libjpeg-dev)
    elif [ "$p" = dataset-fashion-mnist ]; then say "no package $p here: the demo will use the built-in shapes"
    else fail "the package '$p' is not available; Aspis is tested on Debian 12"; fi
  done
  [ ${#wanted[@]} = 0 ] || as_root apt-get install -y -qq --no-install-recommends "${wanted[@]}" >/dev/null ||
    fail "apt-get could not install: ${wanted[*]}"
}

setup_macos() {
  command -v brew >/dev/null || fail "Homebrew is needed (https://brew.sh)"
  local missing=() p
  for p in "${brew_packages[@]}"; do brew list --versions "$p" >/dev/null 2>&1 || missing+=("$p"); done
  if [ ${#missing[@]} = 0 ]; then say "system packages: all there"; return; fi
  say "packages to install with brew: ${missing[*]}"
  [ $list_only = 1 ] || brew install "${missing[@]}"
}

# --- the engine --------------------------------------------------------------
engine_wheel() {  # prints: package platform sha256
  local system machine
  system=$(uname -s) machine=$(uname -m)
  case "$system-$machine" in
    Linux-x86_64)
      echo mlx-cpu manylinux_2_35_x86_64 0e0a24fa2ce8b6b94d2e6a90604e8813aa8e29fcb918bb2aa01cfb6d133d8cee ;;
    Linux-aarch64)
      echo mlx-cpu manylinux_2_35_aarch64 1289e85e64af1fd16380bf331438bfe4afe875d27afc3e0bcf35f427c488fadd ;;
    Darwin-arm64)
      case "$(sw_vers -productVersion)" in
        14.*) echo mlx-metal macosx_14_0_arm64 8019b2db622599267d66cc168b2f0dbf5af929790a6c3b3913e00eabc42a7947 ;;
        15.*) echo mlx-metal macosx_15_0_arm64 9f0a3cc26d89724434d9684932fc6f3e4e83669d2a895d858ed2c8a55eb84e8b ;;
        *)    echo mlx-metal macosx_26_0_arm64 514df92d41a286895d2564b4b18f4da45096bd7a4a0c47e1042f345ad5a7f936 ;;
      esac ;;
    *) fail "no engine wheel for $system on $machine: Aspis needs Linux on x86-64 or arm64, or macOS 14+ on Apple silicon" ;;
  esac
}

check_glibc() {
  [ "$(uname -s)" = Linux ] || return 0
  local version
  version=$(getconf GNU_LIBC_VERSION 2>/dev/null | awk '{print $2}')
  [ -n "$version" ] || fail "the engine needs glibc 2.35 or newer; this system's C library is not glibc"
  printf '%s\n%s\n' 2.35 "$version" | sort -C -V ||
    fail "the engine needs glibc 2.35 or newer (Debian 12, Ubuntu 22.04); got $version"
}

sha256_of() {
  if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d' ' -f1
}

setup_engine() {
  local package platform hash stamp
  read -r package platform hash <<<"$(engine_wheel)"
  stamp="$deps/engine/.wheel"
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$hash" ] && [ -e "$deps/engine/mlx/share/cmake/MLX/MLXConfig.cmake" ]; then
    say "engine: $package $mlx_version is there"
    return
  fi
  check_glibc
  say "engine to fetch: $package==$mlx_version ($platform) from PyPI into $deps/engine (10-80 MB, sha256 checked)"
  [ $list_only = 1 ] && return
  local work
  work=$(mktemp -d)
  trap 'rm -rf "$work"' RETURN
  printf '%s==%s --hash=sha256:%s\n' "$package" "$mlx_version" "$hash" >"$work/engine.txt"
  python3 -m pip download --quiet --no-deps --only-binary=:all: --require-hashes --platform "$platform" \
    --disable-pip-version-check -d "$work" -r "$work/engine.txt" ||
    fail "the wheel of $package $mlx_version could not be downloaded or its hash is wrong"
  local got
  got=$(sha256_of "$work"/*.whl)
  [ "$got" = "$hash" ] || fail "the wheel of $package $mlx_version must have sha256 $hash; got $got; run this again, it is fetched anew"
  rm -rf "$deps/engine.new"
  mkdir -p "$deps/engine.new"
  # Both mlx/ and mlx_cpu.libs/ must stay side by side: libmlx finds its BLAS by a relative path.
  python3 -m zipfile -e "$work"/*.whl "$deps/engine.new"
  echo "$hash" >"$deps/engine.new/.wheel"
  rm -rf "$deps/engine"
  mv "$deps/engine.new" "$deps/engine"
}

case "$(uname -s)" in
  Linux)
    if command -v apt-get >/dev/null; then setup_debian
    else say "no apt-get: install these yourself: ${debian_packages[*]}"; fi ;;
  Darwin) setup_macos ;;
esac
setup_engine
[ $list_only = 1 ] || say "done"
