#!/usr/bin/env bash
# The demonstration behind `make demo`: trains a small vision Mamba on the
# 60,000 Fashion-MNIST images, writes checkpoint and report, classifies a few
# test images and says where everything is.
#
#   tools/demo.sh PROGRAM [--long]     --long trains for more epochs
set -euo pipefail
cd "$(dirname "$0")/.."
aspis="$1"
length=(--epochs 4)
name=demo
if [ "${2:-}" = --long ]; then length=(--epochs 30); name=demo-long; fi

data=fashion-mnist
if ! "$aspis" data inspect fashion-mnist --split test --json >/dev/null 2>&1; then
  echo "demo: Fashion-MNIST is not on this machine; using the built-in shapes" >&2
  data=shapes
fi

run="runs/$name"
# A finished demo is kept under another name; an interrupted one goes on.
if [ -e "$run/status.json" ]; then
  if grep -q '"state": *"done"' "$run/status.json"; then
    mv "$run" "$run-$(date +%Y%m%d-%H%M%S)"
  fi
fi
if [ -e "$run/checkpoints/last" ]; then
  echo "demo: going on with $run" >&2
  "$aspis" train --resume "$run"
else
  rm -rf "$run"
  "$aspis" train --data "$data" "${length[@]}" --out "$run"
fi

echo
echo "A few test images, written as PNG and classified:"
"$aspis" data export "$data" --split test --count 6 --to "$run/pictures" --quiet
"$aspis" classify "$run/pictures" --model "$run" --top 1
cat <<TEXT

Everything of this run is in $run:
  report       $run/report.html   (open it in a browser)
  checkpoints  $run/checkpoints/best, $run/checkpoints/last
  metrics      $run/metrics.csv, $run/metrics.jsonl
Next:
  $aspis classify YOUR.png --model $run
  $aspis train --data folder:YOUR_PICTURES --epochs 20
TEXT
