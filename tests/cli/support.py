"""Helpers of the tests that drive the program as real processes."""
import os
import signal
import subprocess
import sys
import time

PROGRAM = os.path.abspath(sys.argv[1])
# A model and a data set small enough that an epoch takes a second.
SMALL = ["--data", "shapes", "--image-size", "16", "--set", "depth=1", "--set", "embed_dim=16", "--batch", "16",
         "--limit-batches", "8", "--limit-eval-batches", "1", "--log-every", "1"]


def aspis(*arguments, **keywords):
    env = {k: v for k, v in os.environ.items() if not k.startswith("ASPIS_")}
    env.update(keywords.pop("env", {}))
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, env=env, timeout=300, **keywords)


def start(*arguments):
    return subprocess.Popen([PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition, what, seconds=60):
    end = time.time() + seconds
    while time.time() < end:
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain for " + what)


def lines_of(path):
    try:
        with open(path, encoding="utf-8") as f:
            return f.read().count("\n")
    except FileNotFoundError:
        return 0


def read(path):
    with open(path, "rb") as f:
        return f.read()


def expect(ok, message, result=None):
    if ok:
        return
    if result is not None:
        message += f"\n  exit {result.returncode}\n  stdout: {result.stdout}\n  stderr: {result.stderr}"
    raise AssertionError(message)


class Skip(Exception):
    """A test that cannot be run on this machine; says why."""


def as_nobody():
    """Gives up root's power to write anywhere, in a child that is about to run."""
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)


def run_all(tests):
    failed = skipped = 0
    for test in tests:
        began = time.time()
        try:
            test()
            print(f"ok      {test.__name__} ({time.time() - began:.1f} s)")
        except Skip as reason:
            skipped += 1
            print(f"skipped {test.__name__}: {reason}")
        except Exception as error:  # a test program reports every failure
            failed += 1
            print(f"FAILED  {test.__name__}: {error}")
    print(f"{len(tests) - failed - skipped} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    sys.exit(1 if failed else 0)


__all__ = [name for name in dir() if not name.startswith("_")]
