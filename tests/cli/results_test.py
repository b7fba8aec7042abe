#!/usr/bin/env python3
"""What a run leaves behind, and that a model learns."""
import csv
import json
import tempfile

from support import *

FOLDER = tempfile.mkdtemp()


def path(name):
    return os.path.join(FOLDER, name)


def a_small_model_learns_the_shapes():
    r = aspis("train", "--data", "shapes", "--image-size", "16", "--set", "depth=2", "--set", "embed_dim=32", "--epochs", "2",
              "--limit-batches", "150", "--limit-eval-batches", "2", "--out", path("run"), "--json")
    expect(r.returncode == 0, "training failed", r)
    result = json.loads(r.stdout)
    # Ten classes: chance is 10 % with a deviation of 1.3 % on 512 images.
    expect(result["accuracy"] > 0.18, f"accuracy {result['accuracy']}: nothing was learnt")


def run_folder_is_complete():
    for name in ["config.toml", "environment.json", "command.txt", "log.txt", "metrics.jsonl", "metrics.csv", "status.json",
                 "report.html", "report.json", "checkpoints/last/model.safetensors", "checkpoints/best/manifest.json"]:
        expect(os.path.exists(path("run/" + name)), name + " is missing")
    status = json.loads(read(path("run/status.json")))
    expect(status["state"] == "done", "status is " + status["state"])
    rows = list(csv.DictReader(open(path("run/metrics.csv"), encoding="utf-8")))
    losses = [float(row["train/loss"]) for row in rows if row.get("train/loss")]
    expect(len(losses) > 5 and losses[-1] < losses[0], "the loss did not fall")
    for line in open(path("run/metrics.jsonl"), encoding="utf-8"):
        json.loads(line)


def report_stands_alone():
    page = read(path("run/report.html")).decode()
    expect(page.lstrip().lower().startswith("<!doctype html>"), "no HTML page")
    for attribute in ('src="http', "src='http", 'href="http', "url(http", "@import"):
        expect(attribute not in page, "the report asks for something outside: " + attribute)
    r = aspis("report", path("run"))
    expect(r.returncode == 0 and "report.html" in r.stdout, "aspis report failed", r)


def eval_agrees_with_training_and_config_can_be_fed_back():
    status = json.loads(read(path("run/status.json")))
    r = aspis("eval", "--model", path("run"), "--limit-batches", "2", "--json")
    expect(r.returncode == 0, "eval failed", r)
    accuracy = json.loads(r.stdout)["accuracy"]
    best = status["metrics"]["best_val_accuracy"]
    expect(abs(accuracy - best) < 1e-9, f"eval says {accuracy}, training said {best}")
    r = aspis("train", "--config", path("run/config.toml"), "--print-config", "--out", path("again"))
    expect(r.returncode == 0 and "limit-batches = 150" in r.stdout, "the config of a run cannot be read back", r)


def eval_uses_the_pictures_that_training_kept_apart():
    aspis("data", "export", "shapes", "--split", "train", "--count", "240", "--to", path("flat"))
    for name in os.listdir(path("flat")):
        label = os.path.splitext(name)[0].split("_", 1)[1]
        os.makedirs(path("sorted/" + label), exist_ok=True)
        os.rename(path("flat/" + name), path("sorted/" + label + "/" + name))
    r = aspis("train", "--data", "folder:" + path("sorted"), "--image-size", "16", "--set", "depth=1", "--set",
              "embed_dim=16", "--epochs", "1", "--val-fraction", "0.4", "--seed", "5", "--out", path("parted"), "--json")
    expect(r.returncode == 0, "training on a folder failed", r)
    trained = json.loads(r.stdout)
    measured = json.loads(aspis("eval", "--model", path("parted"), "--json").stdout)
    expect(measured["samples"] == 100, f"{measured['samples']} pictures, ten of each class expected")
    expect(abs(measured["loss"] - trained["loss"]) < 1e-6, f"eval says {measured['loss']}, training said {trained['loss']}")
    kept = sorted(os.listdir(path("parted/checkpoints")))
    expect(kept == ["best", "last"], f"after one epoch {kept}")


def the_newest_checkpoints_stay_and_stand_in_for_a_damaged_one():
    r = aspis("train", "--data", "shapes", "--image-size", "16", "--set", "depth=1", "--set", "embed_dim=16", "--epochs", "5",
              "--limit-batches", "4", "--limit-eval-batches", "1", "--out", path("five"))
    expect(r.returncode == 0, "training failed", r)
    kept = sorted(os.listdir(path("five/checkpoints")))
    expect(kept == ["best", "last", "last-000000012", "last-000000016"], f"kept: {kept}")
    with open(path("five/checkpoints/last/model.safetensors"), "r+b") as f:
        f.seek(2000)
        f.write(b"damage")
    r = aspis("train", "--resume", path("five"))
    expect(r.returncode == 0, "resuming from a former checkpoint failed", r)
    expect("using checkpoint" in r.stderr and "last-000000016" in r.stderr, "no word of the former checkpoint", r)


def classify_gives_the_same_columns_in_csv_and_json():
    aspis("data", "export", "shapes", "--count", "4", "--to", path("pictures"))
    r = aspis("classify", path("pictures"), "--model", path("run"), "--top", "2", "--format", "csv")
    expect(r.returncode == 0, "classify failed", r)
    rows = list(csv.DictReader(r.stdout.splitlines()))
    j = json.loads(aspis("classify", path("pictures"), "--model", path("run"), "--top", "2", "--json").stdout)
    expect(len(rows) == 8 and len(j) == 8, f"{len(rows)} and {len(j)} rows, 8 expected")
    expect(list(rows[0].keys()) == list(j[0].keys()), "columns differ")
    listed = "\n".join(sorted(os.path.join(path("pictures"), f) for f in os.listdir(path("pictures"))))
    r = aspis("classify", "-", "--model", path("run"), "--top", "2", "--format", "csv", input=listed)
    expect(r.returncode == 0 and len(r.stdout.splitlines()) == 9, "a list on stdin failed", r)


run_all([a_small_model_learns_the_shapes, run_folder_is_complete, report_stands_alone,
         eval_agrees_with_training_and_config_can_be_fed_back, eval_uses_the_pictures_that_training_kept_apart,
         the_newest_checkpoints_stay_and_stand_in_for_a_damaged_one, classify_gives_the_same_columns_in_csv_and_json])
