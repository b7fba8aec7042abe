#!/usr/bin/env bash
# Builds the parts without MLX for 64-bit Arm on an x86-64 Debian or Ubuntu and
# runs their tests under qemu-user, so that the NEON kernels are compiled and run.
#
#   tools/arm64.sh [ctest options]        e.g. tools/arm64.sh -R kernel
#
# Needs g++-aarch64-linux-gnu and qemu-user. The Arm packages of the libraries
# are fetched with a package list of their own and only unpacked below the build
# folder: nothing is installed, and the machine keeps its single architecture.
#
# BUILD  build folder (default: build/arm64)      JOBS  parallel jobs
set -euo pipefail
cd "$(dirname "$0")/.."
build=${BUILD:-build/arm64}
jobs=${JOBS:-$(nproc)}
fail() { printf 'arm64: error: %s\n' "$*" >&2; exit 1; }
command -v aarch64-linux-gnu-g++ >/dev/null || fail "no cross compiler: apt-get install g++-aarch64-linux-gnu"
command -v qemu-aarch64 >/dev/null || fail "no emulator: apt-get install qemu-user"

packages=(libhwy1 libhwy-dev libfmt9 libfmt-dev zlib1g zlib1g-dev libpng16-16 libpng-dev
  libjpeg62-turbo libjpeg62-turbo-dev nlohmann-json3-dev doctest-dev libdnnl2 libdnnl-dev)

mkdir -p "$build/apt"/{lists/partial,cache/archives/partial}
build=$(cd "$build" && pwd)
stamp="${packages[*]}"
if [ "$(cat "$build/sysroot/.packages" 2>/dev/null)" != "$stamp" ]; then
  : >"$build/apt/status"
  apt=(apt-get -q -o "APT::Architecture=arm64" -o "APT::Architectures=arm64" -o "Dir::State::status=$build/apt/status"
    -o "Dir::State::lists=$build/apt/lists" -o "Dir::Cache=$build/apt/cache" -o "APT::Sandbox::User="
    -o "Debug::NoLocking=true" -o "Acquire::Languages=none")
  "${apt[@]}" update || echo "arm64: some package lists are missing; going on" >&2
  rm -rf "$build/debs" "$build/sysroot"
  mkdir -p "$build/debs" "$build/sysroot"
  (cd "$build/debs" && "${apt[@]}" download "${packages[@]}")
  for deb in "$build"/debs/*.deb; do dpkg-deb -x "$deb" "$build/sysroot"; done
  # Debian keeps some libraries in /lib and links to them from /usr/lib.
  if [ -d "$build/sysroot/lib" ]; then
    cp -a "$build/sysroot/lib/." "$build/sysroot/usr/lib/"
    rm -rf "$build/sysroot/lib"
  fi
  ln -s usr/lib "$build/sysroot/lib"
  # Links with absolute targets would lead out of the folder.
  find "$build/sysroot" -type l -lname '/*' | while read -r link; do
    ln -sfn "$build/sysroot$(readlink "$link")" "$link"
  done
  echo "$stamp" >"$build/sysroot/.packages"
fi

cmake -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release "-DCMAKE_CXX_FLAGS_RELEASE=-O2 -g1" -DASPIS_WITH_MLX=OFF \
  -DCMAKE_TOOLCHAIN_FILE="$PWD/cmake/arm64-toolchain.cmake" -DASPIS_ARM64_SYSROOT="$build/sysroot"
cmake --build "$build" -j "$jobs"
# The tests of packaging configure and set up for the build machine.
ctest --test-dir "$build" --output-on-failure -j "$jobs" -LE package "$@"
