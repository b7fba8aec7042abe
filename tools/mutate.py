#!/usr/bin/env python3
"""Mutation check: breaks kernels on purpose and sees whether their tests notice.

    tools/mutate.py --count 20 --seed 1 cross_entropy adamw       # operators
    tools/mutate.py aspis/ops/linear/kernel/product-inl.h         # single files
    tools/mutate.py --report docs/mutation-results.md             # table of all runs so far

For every mutant the tree (a copy below build/) gets one changed line, the
operator's kernel test is built and run, and the result is kept in
build/mutate/results.json, so that a broken-off run goes on where it was.

    killed      a test failed, crashed or ran into the time limit
    survived    every test passed: a test is missing, or the change is equivalent
    invalid     the mutant did not compile

The choice depends on the seed and the text of the files alone. --with-op also
builds and runs the operator's test above MLX, for mutants that the kernel test
let live.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("CMakeLists.txt", "CMakePresets.json", "cmake", "aspis", "tests", "tools", "bench", "docs", "README.md",
           "LICENSE", "NOTICE")


# --- mutants -----------------------------------------------------------------

def code_of(text):
    """The lines with comments and strings blanked out, columns kept."""
    def blank(match):
        return re.sub(r"[^\n]", " ", match.group(0))
    text = re.sub(r'"(?:\\.|[^"\\\n])*"', lambda m: '"' + " " * (len(m.group(0)) - 2) + '"', text)
    text = re.sub(r"//[^\n]*", blank, text)
    return re.sub(r"/\*.*?\*/", blank, text, flags=re.S).split("\n")


def skipped(code):
    """Lines that say nothing a test could see, or that only the compiler reads."""
    s = code.strip()
    return (not s or s.startswith(("#", "using ", "namespace", "template", "static_assert", "HWY_EXPORT", "}"))
            or re.match(r"(HWY_BEFORE|HWY_AFTER)_NAMESPACE", s) or "Prefetch" in s or "static_cast<" in s and ";" not in s
            # How much one task takes moves work about and must not change a result.
            or re.search(r"\bk\w*(PerTask|Grain|PerBlock)\b", s))


# name of the rule, pattern, replacement; applied to one place of one line.
RULES = (
    ("plus to minus", r"(?<=[\w\)\]] )\+(?= [\w\(])", "-"),
    ("minus to plus", r"(?<=[\w\)\]] )-(?= [\w\(])", "+"),
    ("times to plus", r"(?<=[\w\)\]] )\*(?= [\w\(])", "+"),
    ("+= to -=", r"\+=(?= [^;]*;\s*$)", "-="),
    ("+= to =", r"\+=(?= [^;]*;\s*$)", "="),
    ("-= to +=", r"-=(?= )", "+="),
    ("< to <=", r"(?<=[\w\)\]] )<(?= [\w\(])", "<="),
    ("<= to <", r"(?<= )<=(?= )", "<"),
    ("> to >=", r"(?<=[\w\)\]] )>(?= [\w\(])", ">="),
    (">= to >", r"(?<= )>=(?= )", ">"),
    ("== to !=", r"(?<= )==(?= )", "!="),
    ("!= to ==", r"(?<= )!=(?= )", "=="),
    ("&& to ||", r"(?<= )&&(?= )", "||"),
    ("|| to &&", r"(?<= )\|\|(?= )", "&&"),
    ("Add to Sub", r"\bhn::Add\(", "hn::Sub("),
    ("Sub to Add", r"\bhn::Sub\(", "hn::Add("),
    ("Mul to Add", r"\bhn::Mul\(", "hn::Add("),
    ("MulAdd to NegMulAdd", r"\bhn::MulAdd\(", "hn::NegMulAdd("),
    ("NegMulAdd to MulAdd", r"\bhn::NegMulAdd\(", "hn::MulAdd("),
    ("MulSub to MulAdd", r"\bhn::MulSub\(", "hn::MulAdd("),
    ("Max to Min", r"\b(hn|std)::[Mm]ax\b(?=[(<])", lambda m: m.group(0).replace("Max", "Min").replace("max", "min")),
    ("Min to Max", r"\b(hn|std)::[Mm]in\b(?=[(<])", lambda m: m.group(0).replace("Min", "Max").replace("min", "max")),
    ("0 to 1", r"(?<=[ (\[])0(?=[;,)\]])", "1"),
    ("1 to 0", r"(?<=[ (\[])1(?=[;,)\]])", "0"),
    ("1 to 2", r"(?<=[ (\[])1(?=[;,)\]])", "2"),
    ("constant doubled", r"(?<=[ (\[-])([2-9]|[1-9]\d*\.\d+f?)(?=[;,) \]])",
     lambda m: "(2 * " + m.group(0) + ")"),
    ("condition negated", r"\bif \((?!constexpr)(?=[^;{]*\))", "if (!"),
    ("true to false", r"\btrue\b(?=[,;)])", "false"),
    ("false to true", r"\bfalse\b(?=[,;)])", "true"),
    ("index swapped", r"\[(\w+) \* (\w+) \+ (\w+)\]", r"[\3 * \2 + \1]"),
    ("index off by one", r"(?<=\w)\[([a-z]\w*)\](?! *\()", r"[\1 + 1]"),
    ("term dropped", r"(?<=[\w\)\]]) [+-] \w+(\.\w+)*(\[[^\]]*\])?(?=[;,)\]])", ""),
)


def condition_negated(line, start):
    """`if (a b)` to `if (!(a b))` at the bracket that opens at start."""
    depth = 0
    for i in range(start, len(line)):
        depth += {"(": 1, ")": -1}.get(line[i], 0)
        if depth == 0:
            return line[:start] + "(!" + line[start:i + 1] + ")" + line[i + 1:]
    return None


def mutants_of(path, text):
    lines, codes = text.split("\n"), code_of(text)
    for number, (line, code) in enumerate(zip(lines, codes), 1):
        if skipped(code):
            continue
        for rule, pattern, replacement in RULES:
            for place, match in enumerate(re.finditer(pattern, code)):
                if rule == "condition negated":
                    changed = condition_negated(line, match.end() - len("(") if code[match.start():match.end()].endswith("(")
                                                else code.index("(", match.start()))
                else:
                    new = match.expand(replacement) if isinstance(replacement, str) else replacement(match)
                    changed = line[:match.start()] + new + line[match.end():]
                if changed and changed != line:
                    yield {"file": path, "line": number, "rule": rule, "place": place, "old": line, "new": changed}
        # A statement of one line that declares nothing.
        s = code.strip()
        if (re.match(r"[\w:.\[\]>*()-]+( [-+*/|&]?= |\()", s) and s.endswith(";") and s.count("(") == s.count(")")
                and not s.startswith(("return", "for", "if", "while", "throw", "const ", "auto ", "using", "case"))):
            yield {"file": path, "line": number, "rule": "statement deleted", "place": 0, "old": line,
                   "new": line[:len(line) - len(line.lstrip())] + ";"}


def key_of(m):
    """Of the text, not the line number: an edit elsewhere keeps the results."""
    return hashlib.sha256("\0".join((m["file"], m["old"].strip(), m["new"].strip(), str(m["nth"]))).encode()).hexdigest()[:12]


def files_of(what):
    path = ROOT / what
    if path.is_file():
        return [str(path.relative_to(ROOT))]
    kernel = ROOT / "aspis/ops" / what / "kernel"
    if not kernel.is_dir():
        sys.exit(f"mutate: no operator and no file '{what}'")
    left_out = re.compile(r"(_test\.cc|bench\.cc|reference\w*\.h|test_problem\.h)$")
    return sorted(str(f.relative_to(ROOT)) for f in kernel.iterdir()
                  if f.suffix in (".cc", ".h") and not left_out.search(f.name))


def choose(files, count, seed):
    """`count` mutants, spread over the files by their number of candidates, rules in turn."""
    candidates = []
    for f in files:
        seen = {}
        for m in mutants_of(f, (ROOT / f).read_text()):
            same = (m["old"].strip(), m["new"].strip())
            m["nth"] = seen[same] = seen.get(same, -1) + 1
            m["key"] = key_of(m)
            candidates.append(m)
    rng = random.Random(f"{seed}")
    rng.shuffle(candidates)
    by_rule = {}
    for m in candidates:
        by_rule.setdefault(m["rule"], []).append(m)
    chosen, lines = [], set()
    order = sorted(by_rule)
    rng.shuffle(order)
    while len(chosen) < count and any(by_rule.values()):
        for rule in order:
            while by_rule[rule] and len(chosen) < count:
                m = by_rule[rule].pop()
                if (m["file"], m["line"]) in lines:
                    continue
                lines.add((m["file"], m["line"]))
                chosen.append(m)
                break
    return chosen


# --- building and running ----------------------------------------------------

class Scratch:
    """A copy of the tree with a build folder of its own."""

    def __init__(self, folder, jobs, with_mlx, sanitize, wrap):
        self.tree = folder / "tree"
        self.build = folder / ("build-mlx" if with_mlx else "build-asan" if sanitize else "build")
        self.jobs, self.with_mlx, self.sanitize, self.wrap = jobs, with_mlx, sanitize, wrap
        self.sync()
        self.configure()

    def sync(self):
        self.tree.mkdir(parents=True, exist_ok=True)
        for name in SOURCES:
            source = ROOT / name
            if not source.exists():
                continue
            for f in [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file()):
                target = self.tree / f.relative_to(ROOT)
                if not target.exists() or target.read_bytes() != f.read_bytes():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(f, target)
                    shutil.copymode(f, target)
        for f in [p for name in ("aspis", "tests") for p in (self.tree / name).rglob("*") if p.is_file()]:
            if not (ROOT / f.relative_to(self.tree)).exists():
                f.unlink()

    def configure(self):
        # -O1: a mutant is compiled once and run for seconds.
        command = ["cmake", "-S", self.tree, "-B", self.build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
                   "-DCMAKE_CXX_FLAGS_RELEASE=-O1", "-DASPIS_WERROR=OFF",
                   f"-DASPIS_WITH_MLX={'ON' if self.with_mlx else 'OFF'}"]
        if self.sanitize:
            command.append("-DASPIS_SANITIZE=address")
        if self.with_mlx:
            command.append(f"-DMLX_ROOT={ROOT / '.deps/engine/mlx'}")
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            sys.exit("mutate: the copy could not be configured:\n" + done.stdout[-3000:])

    def make(self, target):
        return subprocess.run(self.wrap + ["cmake", "--build", self.build, "-j", str(self.jobs), "--target", target],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, target, op, limit):
        """'' if every test passed, else what was seen."""
        folder = self.build / "aspis/ops" / op
        environment = dict(os.environ, UBSAN_OPTIONS="halt_on_error=1")
        # The limit counts from the start of the test, not of what stands in front of it.
        limited = ["timeout", "--kill-after=5", f"{limit:.0f}", folder / target, "--abort-after=1"]
        done = subprocess.run(self.wrap + limited, cwd=folder, env=environment, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace")
        if done.returncode in (124, 137):
            return f"time limit of {limit:.0f} s"
        if done.returncode == 0:
            return ""
        if done.returncode < 0:
            return f"signal {-done.returncode}"
        if "AddressSanitizer" in done.stdout:
            return "AddressSanitizer: " + (re.search(r"AddressSanitizer: (\S+)", done.stdout) or [0, "?"])[1]
        case = re.search(r"TEST CASE:\s+(.*)", done.stdout)
        return case.group(1).strip() if case else f"exit {done.returncode}"


def op_of(path):
    return Path(path).parts[2]


def targets_of(op, with_op):
    """The kernel's test and, asked for or where there is no other, the operator's."""
    recipe = (ROOT / "aspis/ops" / op / "CMakeLists.txt").read_text()
    kernel = [f"aspis_{op}_kernel_test"] if re.search(r"TESTS kernel/", recipe) else []
    return kernel + ([f"aspis_{op}_test"] if with_op else [])


def try_mutant(scratch, m, times, args):
    op = op_of(m["file"])
    targets = targets_of(op, args.with_op)
    if not targets:
        sys.exit(f"mutate: {op} has no kernel test; run it with --with-op")
    file = scratch.tree / m["file"]
    original = file.read_text()
    lines = original.split("\n")
    if lines[m["line"] - 1] != m["old"]:
        return "invalid", "the file has changed"
    lines[m["line"] - 1] = m["new"]
    try:
        for target in targets:
            file.write_text(original)
            if target not in times:
                built = scratch.make(target)
                if built.returncode:
                    sys.exit(f"mutate: {target} does not build without a mutant:\n{built.stdout[-3000:]}")
                start = time.monotonic()
                seen = scratch.run(target, op, 600)
                if seen:
                    sys.exit(f"mutate: {target} fails without a mutant: {seen}")
                times[target] = time.monotonic() - start
            file.write_text("\n".join(lines))
            built = scratch.make(target)
            if built.returncode:
                return "invalid", next((l for l in built.stdout.split("\n") if "error" in l), "")[:200]
            seen = scratch.run(target, op, 10 + 5 * times[target])
            if seen:
                return "killed", f"{target}: {seen}"
        return "survived", ""
    finally:
        file.write_text(original)


# --- report ------------------------------------------------------------------

def cell(text, limit=90):
    text = " ".join(text.split())
    text = text if len(text) <= limit else text[:limit - 1] + "…"
    return "`` " + text.replace("|", "\\|") + " ``"


def report(results):
    kept = sorted(results.values(), key=lambda r: (r["file"], r["line"], r["rule"]))
    by_op = {}
    for r in kept:
        by_op.setdefault(op_of(r["file"]), []).append(r["result"])
    out = ["| operator | mutants | killed | survived | did not compile |", "|---|---|---|---|---|"]
    for op, seen in sorted(by_op.items()) + ([("all", [r["result"] for r in kept])] if len(by_op) > 1 else []):
        valid = [s for s in seen if s != "invalid"]
        out.append(f"| {op} | {len(valid)} | {valid.count('killed')} | {valid.count('survived')} | "
                   f"{seen.count('invalid')} |")
    out += ["", "Survivors:", "", "| id | file, line | change | from | to |", "|---|---|---|---|---|"]
    for r in kept:
        if r["result"] == "survived":
            out.append(f"| {r['key'][:6]} | {r['file'].removeprefix('aspis/ops/')}:{r['line']} | {r['rule']} | "
                       f"{cell(r['old'])} | {cell(r['new'])} |")
    out += ["", "Killed:", "", "| id | file, line | change | to | by |", "|---|---|---|---|---|"]
    for r in kept:
        if r["result"] == "killed":
            out.append(f"| {r['key'][:6]} | {r['file'].removeprefix('aspis/ops/')}:{r['line']} | {r['rule']} | "
                       f"{cell(r['new'], 70)} | {r['seen'].split(': ', 1)[-1].replace('|', '/')[:60]} |")
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="operators (folders of aspis/ops) or files of their kernels")
    parser.add_argument("--count", type=int, default=15, help="mutants in all (default 15)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=0, help="stop after that long; the next run goes on")
    parser.add_argument("--with-op", action="store_true", help="also run the test above MLX on survivors")
    parser.add_argument("--sanitize", action="store_true",
                        help="build with AddressSanitizer: sees mutants that read what nothing uses (with --again, for survivors)")
    parser.add_argument("--again", action="store_true", help="run survivors, and those stopped by the time limit, once more")
    parser.add_argument("--wrap", default="", help="command in front of every build and test, such as 'nice -n 10'")
    parser.add_argument("--list", action="store_true", help="print the choice and stop")
    parser.add_argument("--report", type=Path, help="write the table of all results to this file ('-': print)")
    parser.add_argument("--scratch", type=Path, default=ROOT / "build/mutate")
    args = parser.parse_args()
    if args.with_op and args.sanitize:
        parser.error("--sanitize is for the kernels' own tests, without --with-op")

    kept_in = args.scratch / "results.json"
    results = json.loads(kept_in.read_text()) if kept_in.exists() else {}
    if args.what:
        # An equal share for every operator, so that a long file does not crowd out a short one.
        chosen = []
        for i, what in enumerate(args.what):
            share = args.count * (i + 1) // len(args.what) - args.count * i // len(args.what)
            chosen += choose(files_of(what), share, f"{args.seed} {what}")
        if args.list:
            for m in chosen:
                print(f"{m['key'][:6]} {m['file']}:{m['line']} {m['rule']}\n  - {m['old'].strip()}\n  + {m['new'].strip()}")
            return
        args.scratch.mkdir(parents=True, exist_ok=True)
        scratch, times, end = Scratch(args.scratch, args.jobs, args.with_op, args.sanitize, args.wrap.split()), {}, time.monotonic() + args.minutes * 60
        for i, m in enumerate(chosen, 1):
            old = results.get(m["key"])
            if old and not (args.again and (old["result"] == "survived" or "time limit" in old["seen"])):
                continue
            if args.minutes and time.monotonic() > end:
                print("mutate: out of time; run again to go on")
                break
            m["result"], m["seen"] = try_mutant(scratch, m, times, args)
            results[m["key"]] = m
            aside = kept_in.with_suffix(".new")
            aside.write_text(json.dumps(results, indent=1))
            aside.replace(kept_in)
            print(f"{i}/{len(chosen)} {m['result']:8} {m['file']}:{m['line']} {m['rule']}: {m['seen']}", flush=True)
    if args.report or not args.what:
        table = report(results)
        if args.report and str(args.report) != "-":
            args.report.write_text(table)
        else:
            print(table)


if __name__ == "__main__":
    main()
