#!/usr/bin/env python3
"""docs/conformance.md names test cases: every row must be well formed, every case must exist in its program, and no
row may be there twice."""
import os
import re
import subprocess
import sys

table, build = sys.argv[1], sys.argv[2]
ROWS = 118  # as many as there are: a row that is lost, or that no longer reads as one, fails

programs = {}
for folder, _, files in os.walk(build):
    for name in files:
        path = os.path.join(folder, name)
        if re.fullmatch(r"aspis_\w+_test", name) and os.access(path, os.X_OK):
            programs[name[len("aspis_"):-len("_test")]] = path

listed, rows, wrong, seen = {}, 0, [], set()


def cases_of(program):
    if program not in listed:
        out = subprocess.run([programs[program], "--list-test-cases", "--no-colors"], capture_output=True, text=True)
        listed[program] = out.stdout.splitlines()
    return listed[program]


for number, line in enumerate(open(table, encoding="utf-8"), 1):
    if "|" not in line:
        continue
    cells = [c.strip() for c in line.strip().split("|")]
    if cells == ["", "what", "program", "case", ""] or cells == ["", "---", "---", "---", ""]:
        continue
    where = f"line {number}"
    if len(cells) != 5 or cells[0] or cells[4] or not all(cells[1:4]):
        wrong.append(f"{where}: a row has the three cells | what | `program` | case |, got {line.strip()!r}")
        continue
    rows += 1
    what, program, case = cells[1:4]
    if not re.fullmatch(r"`\w+`", program):
        wrong.append(f"{where}: the program must be a word in backquotes, got {program}")
        continue
    program = program.strip("`")
    if (what, program, case) in seen:
        wrong.append(f"{where}: the row of line with {what!r} is there twice")
    seen.add((what, program, case))
    if program not in programs:
        wrong.append(f"{where}, {what}: there is no test program {program}")
    elif case not in cases_of(program):
        wrong.append(f"{where}, {what}: {program} has no case \"{case}\"")
if rows != ROWS:
    wrong.append(f"{rows} rows where table_test.py knows of {ROWS}: change both together")
for line in wrong:
    print(line)
print(f"{rows} rows, {len(wrong)} mistakes")
sys.exit(1 if wrong else 0)
