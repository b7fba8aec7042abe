#!/usr/bin/env python3
"""Runs a transcript: `transcript.py PROGRAM FILE`.

A transcript is a list of commands with what is expected of them:

    $ aspis model info vision_mamba_fmnst      command; quotes as in a shell
    exit 2                                     exit code (default 0)
    out REGEX                                  some line of stdout matches
    err REGEX                                  some line of stderr matches
    json KEY                                   stdout is JSON with this key (dotted; lists: first element)
    errlines 1                                 number of lines on stderr

Lines that begin with # are comments. `VAR=value` before `aspis` sets the
environment. Other commands go to a shell, with the program's path in $PROGRAM.
Each file runs in an empty folder of its own.
"""
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile


def parse(path):
    cases = []
    for number, line in enumerate(open(path, encoding="utf-8"), 1):
        line = line.rstrip("\n")
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("$ "):
            cases.append({"line": number, "command": line[2:], "exit": 0, "checks": []})
        elif line.startswith("exit "):
            cases[-1]["exit"] = int(line[5:])
        else:
            kind, _, value = line.partition(" ")
            cases[-1]["checks"].append((kind, value))
    return cases


def run(program, command, folder):
    words = shlex.split(command)
    env = {k: v for k, v in os.environ.items() if not k.startswith("ASPIS_")}
    while words and re.match(r"^[A-Z_]+=", words[0]):
        key, _, value = words.pop(0).partition("=")
        env[key] = value
    if words[0] == "aspis":
        words[0] = program
        return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=280)
    env["PROGRAM"] = program
    return subprocess.run(["sh", "-c", command], cwd=folder, env=env, capture_output=True, text=True, timeout=280)


def check(kind, value, result):
    if kind in ("out", "err"):
        text = result.stdout if kind == "out" else result.stderr
        return re.search(value, text, re.MULTILINE) is not None
    if kind in ("noout", "noerr"):
        text = result.stdout if kind == "noout" else result.stderr
        return re.search(value, text, re.MULTILINE) is None
    if kind == "errlines":
        return len(result.stderr.splitlines()) == int(value)
    if kind == "json":
        try:
            node = json.loads(result.stdout)
            for key in value.split("."):
                node = node[0] if isinstance(node, list) else node
                node = node[key]
            return True
        except (ValueError, KeyError, IndexError, TypeError):
            return False
    raise SystemExit(f"unknown expectation '{kind}'")


def main():
    program, path = os.path.abspath(sys.argv[1]), sys.argv[2]
    failed = 0
    cases = parse(path)
    assert cases, "no command in " + path
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            result = run(program, case["command"], folder)
            problems = []
            if result.returncode != case["exit"]:
                problems.append(f"exit {result.returncode}, expected {case['exit']}")
            problems += [f"not met: {k} {v}" for k, v in case["checks"] if not check(k, v, result)]
            if problems:
                failed += 1
                print(f"{path}:{case['line']}: $ {case['command']}")
                for p in problems:
                    print("    " + p)
                print("    stdout: " + result.stdout[-1500:].replace("\n", "\n            "))
                print("    stderr: " + result.stderr[-1500:].replace("\n", "\n            "))
    print(f"{len(cases) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


main()
