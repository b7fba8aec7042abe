#!/usr/bin/env bash
# The set-up script with a wheel that is not the pinned one, and with an unknown
# option: one sentence, nothing installed. No network is used: pip is replaced.
set -u
source_dir="$1"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
check() {  # name, expected exit, wanted text, output, exit
  if [ "$5" = "$2" ] && printf '%s' "$4" | grep -qF -- "$3"; then echo "ok      $1"; else
    echo "FAILED  $1: exit $5, output: $4"; failed=1; fi
}

out=$("$source_dir/tools/setup.sh" --frobnicate 2>&1); code=$?
check "unknown option" 2 "setup: unknown option '--frobnicate'; known: --list" "$out" $code

# A python whose pip "downloads" a damaged wheel.
mkdir "$work/bin"
cat > "$work/bin/python3" <<'PY'
#!/usr/bin/env bash
if [ "${3:-}" = --version ]; then echo "pip 23"; exit 0; fi
while [ $# -gt 0 ]; do
  case "$1" in
    -d|--dest) echo damaged > "$2/mlx_cpu-0.32.4-py3-none-manylinux_2_35_x86_64.whl" ;;
  esac
  shift
done
PY
chmod +x "$work/bin/python3"
out=$(PATH="$work/bin:$PATH" ASPIS_DEPS="$work/deps" "$source_dir/tools/setup.sh" 2>&1); code=$?
check "damaged wheel" 1 "setup: error: the wheel of" "$out" $code
check "damaged wheel, both hashes named" 1 "must have sha256" "$out" $code
if [ -e "$work/deps/engine/.wheel" ]; then echo "FAILED  a damaged wheel was installed"; failed=1; fi
exit $failed
