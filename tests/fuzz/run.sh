#!/bin/sh
# tests/fuzz/run.sh <build folder> [seconds]: runs each fuzzer from its corpus.
# New inputs stay in the build folder; a crasher goes into corpus/<target>/.
set -eu
build=$1
seconds=${2:-45}
here=$(cd "$(dirname "$0")" && pwd)
for target in safetensors config image idx weights pickle npy; do
  found="$build/tests/fuzz/found-$target"
  mkdir -p "$found"
  dictionary=
  [ ! -f "$here/$target.dict" ] || dictionary="-dict=$here/$target.dict"
  ASAN_OPTIONS=allocator_may_return_null=1 "$build/tests/fuzz/fuzz_$target" "$found" "$here/corpus/$target" \
    $dictionary -max_total_time="$seconds" -max_len=4096 -rss_limit_mb=512 -malloc_limit_mb=256 \
    -timeout=5 -print_final_stats=1 -artifact_prefix="$build/tests/fuzz/crash-$target-"
done
