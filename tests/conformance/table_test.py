#!/usr/bin/env python3
"""Every test case that docs/conformance.md names must exist in its program."""
import os
import re
import subprocess
import sys

table, build = sys.argv[1], sys.argv[2]
programs = {}
for folder, _, files in os.walk(build):
    for name in files:
        path = os.path.join(folder, name)
        if re.fullmatch(r"aspis_\w+_test", name) and os.access(path, os.X_OK):
            programs[name[len("aspis_"):-len("_test")]] = path

listed, rows, wrong = {}, 0, []
for line in open(table, encoding="utf-8"):
    cells = [c.strip() for c in line.strip().strip("|").split("|")]
    if len(cells) != 3 or not re.fullmatch(r"`\w+`", cells[1]):
        continue
    rows += 1
    program, case = cells[1].strip("`"), cells[2].strip("`")
    if program not in programs:
        wrong.append(f"{cells[0]}: there is no test program {program}")
        continue
    if program not in listed:
        out = subprocess.run([programs[program], "--list-test-cases", "--no-colors"], capture_output=True, text=True)
        listed[program] = out.stdout.splitlines()
    if case not in listed[program]:
        wrong.append(f"{cells[0]}: {program} has no case \"{case}\"")
for line in wrong:
    print(line)
print(f"{rows - len(wrong)} passed, {len(wrong)} failed")
sys.exit(1 if wrong or rows < 40 else 0)
