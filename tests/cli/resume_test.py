#!/usr/bin/env python3
"""A run that is killed or interrupted and resumed ends with the same bytes as one that was not."""
import tempfile

from support import *

FOLDER = tempfile.mkdtemp()
FILES = ["model.safetensors", "optimizer.safetensors"]


def path(name):
    return os.path.join(FOLDER, name)


def checkpoint(run, kind="last"):
    return [read(os.path.join(path(run), "checkpoints", kind, f)) for f in FILES]


def whole_run():
    if not os.path.exists(path("whole")):
        r = aspis("train", *SMALL, "--epochs", "3", "--out", path("whole"), "--json")
        expect(r.returncode == 0, "the whole run failed", r)
    return checkpoint("whole")


def killed_run_resumes_bit_exactly():
    want = whole_run()
    p = start("train", *SMALL, "--epochs", "3", "--out", path("killed"))
    wait_for(lambda: lines_of(path("killed/metrics.jsonl")) >= 12, "step 12")
    p.kill()
    p.communicate()
    expect(p.returncode == -signal.SIGKILL, "the process was to die by SIGKILL")
    expect(os.path.exists(path("killed/report.html")), "a killed run leaves no report of its first epoch")
    r = aspis("train", "--resume", path("killed"))
    expect(r.returncode == 0, "resume failed", r)
    expect(checkpoint("killed") == want, "the resumed run ends with other weights or moments")


def interrupted_run_saves_inside_the_epoch_and_resumes_bit_exactly():
    want = whole_run()
    p = start("train", *SMALL, "--epochs", "3", "--out", path("stopped"))
    wait_for(lambda: lines_of(path("stopped/metrics.jsonl")) >= 3, "step 3")
    p.send_signal(signal.SIGINT)
    out, _ = p.communicate(timeout=60)
    expect(p.returncode == 130, f"exit code {p.returncode}, 130 expected")
    expect("--resume" in out, "the way to go on is not shown: " + out)
    expect(b'"stopped"' in read(path("stopped/status.json")), "status is not 'stopped'")
    r = aspis("train", "--resume", path("stopped"))
    expect(r.returncode == 0, "resume failed", r)
    expect(checkpoint("stopped") == want, "the resumed run ends with other weights or moments")
    steps = [l.split(",")[0] for l in read(path("stopped/metrics.csv")).decode().splitlines()[1:]]
    numbers = [int(s) for s in steps]
    expect(numbers == sorted(numbers), "steps of metrics.csv are not in order")


def another_optimizer_with_averages_resumes_bit_exactly():
    options = [*SMALL, "--epochs", "2", "--optimizer", "muon", "--ema", "0.9"]
    r = aspis("train", *options, "--out", path("muon"))
    expect(r.returncode == 0, "the run failed", r)
    p = start("train", *options, "--out", path("muon2"))
    wait_for(lambda: lines_of(path("muon2/metrics.jsonl")) >= 3, "step 3")
    p.send_signal(signal.SIGINT)
    p.communicate(timeout=60)
    r = aspis("train", "--resume", path("muon2"))
    expect(r.returncode == 0, "resume failed", r)
    expect(checkpoint("muon") == checkpoint("muon2"), "the resumed run ends with other weights, moments or averages")
    expect(checkpoint("muon") != whole_run(), "the optimizer makes no difference")
    r = aspis("train", "--resume", path("muon2"), "--optimizer", "sgd")
    expect(r.returncode == 2 and "--optimizer" in r.stderr, "a resumed run with another optimizer was accepted", r)


def thread_count_and_loader_threads_do_not_change_the_result():
    want = whole_run()
    r = aspis("train", *SMALL, "--epochs", "3", "--out", path("threads"), "--threads", "1", "--loader-threads", "3")
    expect(r.returncode == 0, "the run failed", r)
    expect(checkpoint("threads") == want, "1 thread and 3 loader threads give other weights")


def another_seed_gives_another_result():
    want = whole_run()
    r = aspis("train", *SMALL, "--epochs", "3", "--out", path("seed"), "--seed", "1")
    expect(r.returncode == 0, "the run failed", r)
    expect(checkpoint("seed") != want, "another seed gives the same weights")


def resume_refuses_another_batch_size():
    whole_run()
    r = aspis("train", "--resume", path("whole"), "--batch", "8")
    expect(r.returncode == 2 and "--batch" in r.stderr, "a resumed run with another batch size was accepted", r)


run_all([killed_run_resumes_bit_exactly, interrupted_run_saves_inside_the_epoch_and_resumes_bit_exactly,
         another_optimizer_with_averages_resumes_bit_exactly,
         thread_count_and_loader_threads_do_not_change_the_result, another_seed_gives_another_result,
         resume_refuses_another_batch_size])
