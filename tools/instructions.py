#!/usr/bin/env python3
"""Instruction counts of the operators' kernels, against a stored baseline.

    tools/instructions.py build/release                  # count and compare
    tools/instructions.py build/release ssd linear       # these only
    tools/instructions.py build/release --update         # write the baseline

Where time is too noisy, the number of instructions tells whether a kernel got
more expensive. Callgrind counts one case of each operator (the largest that is
checked everywhere), forward and with gradients, on one thread. It knows no
AVX-512, so the counts are those of the AVX2 kernels (--isa). A count that is
above its baseline by more than --tolerance and 20,000 instructions fails (exit
code 1); one that is below by more asks for a new baseline but does not fail.

Counts depend on the compiler: bench/baselines/instructions.json has one list
for each. Without valgrind, or without a list for this compiler, there is
nothing to compare and the exit code is 77 (skipped).
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = 77
UNSTEADY = 20_000


def compiler_of(build):
    """'GNU 12.2.0 x86_64 Release', from CMake's own record."""
    kind = re.search(r"CMAKE_BUILD_TYPE:\w+=(\w*)", (build / "CMakeCache.txt").read_text())
    for found in sorted(build.glob("CMakeFiles/*/CMakeCXXCompiler.cmake")):
        text = found.read_text()
        name = re.search(r'CMAKE_CXX_COMPILER_ID "([^"]*)"', text)
        version = re.search(r'CMAKE_CXX_COMPILER_VERSION "([^"]*)"', text)
        if name and version:
            return f"{name[1]} {version[1]} {os.uname().machine} {kind[1] if kind else ''}".strip()
    sys.exit(f"instructions: {build} is no configured build folder")


def read_counts(folder):
    """{label: instructions} from callgrind's dumps."""
    counts = {}
    for dump in folder.glob("out.*"):
        text = dump.read_text(errors="replace")
        label = re.search(r"^desc: Trigger: Client Request: (.*\|.*\|.*)$", text, re.M)
        total = re.search(r"^(?:summary|totals): (\d+)", text, re.M)
        if label and total:
            counts[label[1].strip()] = int(total[1])
    return counts


def count(program, isa, names):
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", "--separate-threads=no", "-q",
                   str(program), *names]
        done = subprocess.run(command, env=dict(os.environ, ASPIS_ISA=isa), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"instructions: {program.name} failed under callgrind:\n{done.stderr[-2000:]}")
        counts = read_counts(Path(folder))
        missing = [label for label in done.stdout.split("\n") if label and label not in counts]
        if missing or not counts:
            sys.exit(f"instructions: no counts for {missing or 'anything'}: was the program built with valgrind's header?")
        return counts


def compare(baseline, counts, tolerance, partial):
    """Table rows and the number of counts that are above."""
    rows, above = [], 0
    for label in sorted(set(baseline) | set(counts)):
        old, new = baseline.get(label), counts.get(label)
        if new is None:
            if not partial:
                rows.append((label, old, None, None, "gone: --update"))
            continue
        if old is None:
            rows.append((label, None, new, None, "new: --update"))
            continue
        ratio = new / old
        # The engine's threads wait for each other with a few thousand instructions more or less.
        differs = abs(new - old) > max(tolerance * old, UNSTEADY)
        verdict = "same" if not differs else "MORE" if new > old else "less: --update"
        above += verdict == "MORE"
        rows.append((label, old, new, ratio, verdict))
    return rows, above


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path, help="build folder with aspis_count_ops")
    parser.add_argument("operators", nargs="*")
    parser.add_argument("--isa", default="avx2")
    parser.add_argument("--tolerance", type=float, default=0.03, help="share that may be added (default 0.03)")
    parser.add_argument("--baseline", type=Path, default=ROOT / "bench/baselines/instructions.json")
    parser.add_argument("--update", action="store_true", help="write the counts into the baseline")
    args = parser.parse_args()

    if not shutil.which("valgrind"):
        print("instructions: valgrind is not installed")
        return SKIPPED
    key = f"{compiler_of(args.build)} {args.isa}"
    stored = json.loads(args.baseline.read_text()) if args.baseline.exists() else {}
    if key not in stored and not args.update:
        print(f"instructions: no baseline for '{key}' in {args.baseline.name}")
        return SKIPPED
    program = args.build / "aspis/bench/aspis_count_ops"
    if not program.exists():
        sys.exit("instructions: build the target aspis_count_ops first")
    counts = count(program, args.isa, args.operators)
    if args.update:
        stored[key] = {**stored.get(key, {}), **counts} if args.operators else counts
        args.baseline.parent.mkdir(parents=True, exist_ok=True)
        args.baseline.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
        print(f"instructions: {len(counts)} counts written for '{key}'")
        return 0
    rows, above = compare(stored[key], counts, args.tolerance, bool(args.operators))
    print(f"{key}, tolerance {100 * args.tolerance:g} %\n")
    print("| operator | case | pass | baseline | now | ratio | |\n|---|---|---|---:|---:|---:|---|")
    for label, old, new, ratio, verdict in rows:
        name, case, what = label.split("|")
        show = lambda v: f"{v:,}" if v is not None else "-"
        print(f"| {name} | {case} | {what} | {show(old)} | {show(new)} | {f'{ratio:.3f}' if ratio else '-'} | {verdict} |")
    print(f"\n{above} above the baseline")
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
