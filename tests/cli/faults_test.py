#!/usr/bin/env python3
"""Busy folders, damaged checkpoints, bad pictures, a second Ctrl-C, a diverging run."""
import shutil
import tempfile

from support import *

FOLDER = tempfile.mkdtemp()


def path(name):
    return os.path.join(FOLDER, name)


def trained():
    run = path("trained")
    if not os.path.exists(run):
        r = aspis("train", *SMALL, "--epochs", "1", "--out", run)
        expect(r.returncode == 0, "training failed", r)
    return run


def copy_of_trained(name):
    shutil.copytree(trained(), path(name))
    return path(name)


def both(run, file):
    return [os.path.join(run, "checkpoints", kind, file) for kind in ("best", "last")]


def busy_folder_is_refused_with_73():
    p = start("train", *SMALL, "--epochs", "200", "--out", path("busy"))
    wait_for(lambda: lines_of(path("busy/metrics.jsonl")) >= 1, "the first step")
    r = aspis("train", "--resume", path("busy"))
    expect(r.returncode == 73 and str(p.pid) in r.stderr, "a second process was let in", r)
    p.kill()
    p.communicate()
    r = aspis("train", "--resume", path("busy"), "--dry-run")
    expect(r.returncode == 0, "the lock outlived its process", r)


def second_interrupt_quits_at_once():
    p = start("train", *SMALL, "--epochs", "200", "--out", path("twice"), "--limit-batches", "0", "--batch", "64")
    wait_for(lambda: lines_of(path("twice/metrics.jsonl")) >= 1, "the first step")
    p.send_signal(signal.SIGINT)
    p.send_signal(signal.SIGINT)
    p.communicate(timeout=30)
    expect(p.returncode in (130, -signal.SIGINT), f"exit code {p.returncode}")


def new_run_does_not_overwrite_an_old_one():
    r = aspis("train", *SMALL, "--epochs", "1", "--out", trained())
    expect(r.returncode == 2 and "--resume" in r.stderr, "an old run was overwritten", r)


def truncated_and_flipped_checkpoints_are_refused_with_4():
    for name, damage in {"truncated": lambda b: b[:-5], "flipped": lambda b: b[:200] + bytes([b[200] ^ 1]) + b[201:]}.items():
        run = copy_of_trained(name)
        for file in both(run, "model.safetensors"):
            data = damage(read(file))
            with open(file, "wb") as f:
                f.write(data)
        r = aspis("eval", "--model", run)
        expect(r.returncode == 4 and "model.safetensors" in r.stderr, f"a {name} checkpoint was accepted", r)


def checkpoint_of_a_newer_format_is_refused_with_4():
    run = copy_of_trained("newer")
    for file in both(run, "manifest.json"):
        text = read(file).replace(b'"format": 1', b'"format": 99')
        with open(file, "wb") as f:
            f.write(text)
    r = aspis("eval", "--model", run)
    expect(r.returncode == 4, "a checkpoint of a newer format was accepted", r)


def checkpoint_of_another_model_is_refused():
    run = copy_of_trained("other")
    r = aspis("train", "--resume", run, "--model", "vit_fmnist")
    expect(r.returncode in (2, 4) and "model" in r.stderr, "another model was accepted", r)


def picture_that_is_none_is_refused_or_skipped():
    os.makedirs(path("mixed"))
    aspis("data", "export", "shapes", "--count", "3", "--to", path("mixed"))
    with open(path("mixed/zzz.png"), "w", encoding="utf-8") as f:
        f.write("this is no picture")
    r = aspis("classify", path("mixed"), "--model", trained())
    expect(r.returncode == 3 and "zzz.png" in r.stderr, "a text file passed as a picture", r)
    r = aspis("classify", path("mixed"), "--model", trained(), "--on-bad-sample", "skip", "--top", "1", "--format", "csv")
    expect(r.returncode == 0 and r.stdout.count("\n") == 4 and "zzz.png" in r.stderr, "skipping failed", r)


def a_diverging_run_stops_and_keeps_its_last_good_checkpoint():
    r = aspis("train", *SMALL, "--epochs", "8", "--lr", "1e30", "--clip", "0", "--out", path("diverged"))
    expect(r.returncode == 1 and "finite" in r.stderr, "a diverging run ended otherwise", r)
    expect(b'"failed"' in read(path("diverged/status.json")), "status is not 'failed'")
    expect(os.path.exists(path("diverged/bad_batch.json")), "the batch was not written down")


def files_below(folder):
    return sorted(os.path.join(place, name) for place, _, files in os.walk(folder) for name in files)


def read_only_place_gives_73():
    if os.geteuid() == 0 and not os.path.isdir("/proc/self"):
        return
    r = aspis("train", *SMALL, "--epochs", "1", "--out", "/proc/self/run")
    expect(r.returncode == 73, "a folder that cannot be made was accepted", r)


def a_read_only_run_folder_is_refused_with_73():
    # Root may write anywhere: the program runs as nobody.
    keywords = {"preexec_fn": as_nobody} if os.geteuid() == 0 else {}
    if subprocess.run([PROGRAM, "--version"], capture_output=True, **keywords).returncode != 0:
        raise Skip("another user cannot start the program here")
    os.chmod(FOLDER, 0o755)
    shutil.copytree(trained(), path("frozen"))
    for place, folders, files in os.walk(path("frozen")):
        for name in files:
            os.chmod(os.path.join(place, name), 0o444)
        os.chmod(place, 0o555)
    before = {f: read(f) for f in files_below(path("frozen"))}
    r = aspis("train", "--resume", path("frozen"), **keywords)
    expect(r.returncode == 73 and "frozen" in r.stderr, "a read-only run was resumed", r)
    r = aspis("train", *SMALL, "--epochs", "1", "--out", path("frozen/new"), **keywords)
    expect(r.returncode == 73 and "frozen" in r.stderr, "a folder that cannot be made was accepted", r)
    expect({f: read(f) for f in files_below(path("frozen"))} == before, "a read-only run was changed")
    r = aspis("eval", "--model", path("frozen"), "--limit-batches", "1", **keywords)
    expect(r.returncode == 0, "a read-only run cannot be evaluated", r)


def full_disk_keeps_the_run_alive_then_ends_with_75():
    # A limit on file size makes writes fail as a full disk does.
    import resource
    env = {k: v for k, v in os.environ.items() if not k.startswith("ASPIS_")}
    p = subprocess.run([PROGRAM, "train", *SMALL, "--epochs", "6", "--out", path("full"), "--set", "embed_dim=64"],
                       capture_output=True, text=True, env=env, timeout=300,
                       preexec_fn=lambda: (signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
                                           resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000))))
    expect(p.returncode == 75, "writes failed without exit code 75", p)


run_all([busy_folder_is_refused_with_73, second_interrupt_quits_at_once, new_run_does_not_overwrite_an_old_one,
         truncated_and_flipped_checkpoints_are_refused_with_4, checkpoint_of_a_newer_format_is_refused_with_4,
         checkpoint_of_another_model_is_refused, picture_that_is_none_is_refused_or_skipped,
         a_diverging_run_stops_and_keeps_its_last_good_checkpoint, read_only_place_gives_73,
         a_read_only_run_folder_is_refused_with_73, full_disk_keeps_the_run_alive_then_ends_with_75])
