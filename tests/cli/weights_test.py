"""Published weights through the program: what is it, convert, use, train on; and files that must be refused."""
import json
import os
import pickle
import struct
import sys
import tempfile
import zipfile

from support import aspis, expect, read, run_all

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data")
VIM = os.path.join(DATA, "weights", "vim.pth")
VIM_OF_ANY_SIZE = ["--model", "vim_tiny_patch16_224"] + sum(
    (["--set", s] for s in ("patch_size=4", "stride=4", "embed_dim=8", "depth=2", "d_state=3")), [])
SMALL_VIM = VIM_OF_ANY_SIZE + ["--set", "img_size=12"]
TWO_CHANNELS = ["--set", "in_channels=2", "--set", "num_classes=3"]


def tensors(path):
    raw = read(path)
    n = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + n])
    return {k: (v["shape"], raw[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]])
            for k, v in header.items() if k != "__metadata__"}


def one_sentence(result, *parts):
    expect(result.returncode == 4, "exit code 4", result)
    lines = [l for l in result.stderr.splitlines() if l.startswith("error:")]
    expect(len(lines) == 1 and lines[0] == result.stderr.splitlines()[-1], "one error at the end", result)
    for part in parts:
        expect(part in lines[0], f"'{part}'", result)


def test_a_published_checkpoint_is_told_converted_and_used():
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "vim")
        r = aspis("model", "check", VIM, *SMALL_VIM, *TWO_CHANNELS)
        expect(r.returncode == 0 and "41 of 41 tensors" in r.stdout and "before 1.6" in r.stdout, "it fits", r)
        r = aspis("convert", VIM, *SMALL_VIM, *TWO_CHANNELS, "-o", out)
        expect(r.returncode == 0 and "Apache-2.0" in r.stdout, "converted", r)
        expect(sorted(os.listdir(out)) == ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"],
               "the files of a model folder")
        card = read(os.path.join(out, "README.md")).decode()
        expect("Apache-2.0" in card and "SHA-256" in card and folder not in card, "a card without paths")
        r = aspis("model", "info", out, "--json")
        expect(r.returncode == 0 and json.loads(r.stdout)["model_type"] == "vim", "info of a model folder", r)
        r = aspis("convert", VIM, *SMALL_VIM, *TWO_CHANNELS, "-o", out)
        expect(r.returncode == 2 and "--out" in r.stderr, "a folder in use stays as it is", r)
        # Two channels are no picture: the first convolution is adapted to three.
        rgb = os.path.join(folder, "rgb")
        r = aspis("convert", VIM, *SMALL_VIM, "--set", "num_classes=3", "--adapt", "-o", rgb)
        expect(r.returncode == 0 and "2 to 3 channels" in r.stderr, "adapted", r)
        r = aspis("classify", os.path.join(DATA, "exif_3.jpg"), "--model", rgb, "--json")
        expect(r.returncode == 0 and len(json.loads(r.stdout)) == 3, "classified", r)


def test_training_begins_with_the_weights():
    with tempfile.TemporaryDirectory() as folder:
        run = os.path.join(folder, "run")
        r = aspis("train", *VIM_OF_ANY_SIZE, "--data", "shapes", "--image-size", "16", "--batch", "4", "--steps", "1", "--lr",
                  "1e-12", "--limit-eval-batches", "1", "--from", VIM, "--out", run)
        expect(r.returncode == 0, "trained", r)
        expect("head.weight stays as the model has it" in r.stderr + read(os.path.join(run, "log.txt")).decode(),
               "a word on the new classifier", r)
        got = tensors(os.path.join(run, "checkpoints", "last", "model.safetensors"))
        again = os.path.join(folder, "again")
        r = aspis("convert", VIM, *SMALL_VIM, *TWO_CHANNELS, "-o", again)
        want = tensors(os.path.join(again, "model.safetensors"))
        floats = lambda t: struct.unpack(f"<{len(t[1]) // 4}f", t[1])
        for name in ("norm_f.weight", "layers.1.mixer.A_b_log", "cls_token"):
            expect(all(abs(a - b) < 1e-6 for a, b in zip(floats(got[name]), floats(want[name]))), name)
        # Weights of a run serve too.
        r = aspis("train", *VIM_OF_ANY_SIZE, "--data", "shapes", "--image-size", "16", "--batch", "4", "--dry-run", "--from", run)
        expect(r.returncode == 0, "from a run", r)


def test_weights_that_do_not_fit_are_listed_and_refused():
    r = aspis("model", "check", VIM, *SMALL_VIM)
    one_sentence(r, "head.weight is {3, 8}, not {1000, 8}", "--adapt")
    expect("of another shape (3)" in r.stdout, "the whole list", r)
    one_sentence(aspis("model", "check", VIM), "fit none")
    one_sentence(aspis("classify", os.path.join(DATA, "cmyk.png"), "--model", VIM), "a known model")
    r = aspis("convert", VIM, "--model", "vim_tiny_patch16_223", "-o", "x")
    expect(r.returncode == 2 and "vim_tiny_patch16_224" in r.stderr, "the nearest name", r)
    r = aspis("eval", "--model", "nobody/nothing", "--data", "shapes", env={"HF_HUB_CACHE": "/nonexistent"})
    one_sentence(r, "hf download nobody/nothing")


def test_files_that_are_no_weights_are_refused_and_run_nothing():
    class Code:
        def __reduce__(self):
            return (os.system, ("touch executed",))

    with tempfile.TemporaryDirectory() as folder:
        def check(name, content, *parts):
            path = os.path.join(folder, name)
            with open(path, "wb") as f:
                f.write(content)
            one_sentence(aspis("model", "check", path, cwd=folder), *parts)

        def archive(content, version=b"3\n"):
            path = os.path.join(folder, "a.zip")
            with zipfile.ZipFile(path, "w") as z:
                z.writestr("a/data.pkl", content)
                z.writestr("a/version", version)
            return read(path)

        code = pickle.dumps({"w": Code()}, protocol=2)
        check("code.pth", archive(code), ".system'")
        check("plain.pkl", code, "torch.save has not written")
        check("newer.pth", archive(pickle.dumps({}, protocol=2), b"99\n"), "a newer Aspis")
        check("cut.pth", read(VIM)[:5000], "")
        check("page.bin", b"<!DOCTYPE html>", "a web page")
        check("lfs.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "git-lfs")
        check("none.npz", b"", "an empty file")
        expect(not os.path.exists(os.path.join(folder, "executed")), "nothing in a pickle is run")


if __name__ == "__main__":
    run_all([test_a_published_checkpoint_is_told_converted_and_used, test_training_begins_with_the_weights,
             test_weights_that_do_not_fit_are_listed_and_refused, test_files_that_are_no_weights_are_refused_and_run_nothing])
