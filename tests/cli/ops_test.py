#!/usr/bin/env python3
"""The self-test that users run: aspis ops --check."""
import json

from support import *


def the_self_test_names_back_ends_dtypes_and_errors():
    r = aspis("ops", "causal_conv1d", "--check", "--json")
    expect(r.returncode == 0, "the self-test failed", r)
    rows = json.loads(r.stdout)
    ways = [(row["back_end"], row["dtype"]) for row in rows]
    expect(ways == [("cpu", "float32"), ("cpu", "float64"), ("composed", "float64")], f"rows: {ways}")
    for row in rows:
        expect(row["verdict"] == "ok" and row["cases"] > 5, f"{row}")
        limit = 1e-5 if row["dtype"] == "float32" else 1e-6
        for key in ("forward_error", "gradient_error"):
            expect(0 <= row[key] < limit, f"{key} of {row['dtype']} is {row[key]}")
    r = aspis("ops", "silu", "--check")
    expect("0 operators failed" in r.stderr and "gradient error" in r.stdout, "no table with a closing line", r)


def full_runs_the_upstream_grids_and_low_precision():
    some = json.loads(aspis("ops", "rmsnorm_gated", "--check", "--json").stdout)
    more = json.loads(aspis("ops", "rmsnorm_gated", "--check", "--full", "--json").stdout)
    expect(more[0]["cases"] >= some[0]["cases"] + 17, f"{more[0]['cases']} and {some[0]['cases']} cases")
    low = {row["dtype"]: row for row in more if row["dtype"] in ("bfloat16", "float16")}
    for dtype, limit in (("bfloat16", 4e-3), ("float16", 5e-4)):
        for key in ("forward_error", "gradient_error"):
            expect(0 < low[dtype][key] < limit, f"{key} of {dtype}: {low[dtype]}")


def an_unknown_operator_is_a_usage_error_with_the_nearest_name():
    r = aspis("ops", "selectiv_scan", "--check")
    expect(r.returncode == 2 and "selective_scan" in r.stderr, "no hint", r)


run_all([the_self_test_names_back_ends_dtypes_and_errors, full_runs_the_upstream_grids_and_low_precision,
         an_unknown_operator_is_a_usage_error_with_the_nearest_name])
