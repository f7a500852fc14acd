"""Accuracies of every recipe on generated data, kept in a file, so that none changes unnoticed.

After a change that is meant: `python -m tests.test_golden_accuracies`, and look at what differs.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from edge_cl.bench.accuracy import Plan, follow
from edge_cl.bench.course import measure
from edge_cl.bench.data import DataSet
from edge_cl.bench.streams import Stream, class_incremental, domain_incremental
from edge_cl.recipes import RECIPES, get_recipe

GOLDEN = Path(__file__).with_name("golden_accuracies.json")
TOLERANCE = 0.2  # points: 5 of the 2,500 test samples
LOOSE = 1.0  # of heads that are trained on few samples in bad units or numbers: they differ by 0.7 between BLAS builds
N_TEST = 2500
CASES = ("seven", "forty", "raw", "imbalance", "drift")
PLANS = (*RECIPES, "edge[replay=0]", "edge[codec=sketch]", "replay[codec=int4,selection=herding]")


@cache
def stream_of(case: str) -> Stream:
    """Return a stream of overlapping classes that share a covariance, with heavier tails than a Gaussian's.

    seven: 7 classes in 3 tasks. forty: 40 classes of 10 samples each in 4 tasks. raw: features in units from 10^-3 to
    10^4, far from zero. imbalance: from 1000 samples of a class to 1. drift: four domains that share their classes,
    each in a look of its own.
    """
    rng = np.random.default_rng(CASES.index(case))
    n_classes, dim = {"seven": (7, 16), "forty": (40, 64), "raw": (10, 24)}.get(case, (10, 32))
    sizes = np.full(n_classes, {"seven": 60, "forty": 10, "drift": 80}.get(case, 40))
    if case == "imbalance":
        sizes = np.geomspace(1000, 1, n_classes).astype(np.int64)
    train, test = np.repeat(np.arange(n_classes), sizes), np.arange(N_TEST) % n_classes
    labels = np.concatenate([train, test])
    apart = {"seven": 12, "forty": 30, "raw": 14}.get(case, 20)  # the square of the distance between two classes
    z = rng.standard_t(5, size=(len(labels), dim)) * (3 / 5) ** 0.5
    z += (rng.normal(size=(n_classes, dim)) * (apart / (2 * dim)) ** 0.5)[labels]
    domains, names = None, tuple(map(str, range(4 if case == "drift" else 0)))
    if case == "drift":
        domains = np.concatenate([np.arange(len(train)) // 20 % 4, np.arange(N_TEST) // n_classes % 4])
        z += 0.6 * rng.normal(size=(4, n_classes, dim))[domains, labels]
    features = z @ (rng.normal(size=(dim, dim)) * np.geomspace(1, 0.1, dim)[:, None])  # a covariance far from round
    if case == "raw":
        features = (features + 30 * rng.normal(size=dim)) * 10 ** rng.uniform(-3, 4, dim)
    is_train = np.arange(len(labels)) < len(train)
    classes = tuple(f"c{k}" for k in range(n_classes))
    data = DataSet(case, features.astype(np.float32), labels, classes, is_train, domains, names)
    return domain_incremental(data, 0) if case == "drift" else class_incremental(data, 3 if case == "seven" else 4, 0)


def accuracy_of(case: str, plan: str) -> float:
    stream = stream_of(case)
    return 100 * float(measure(stream, follow(stream, Plan.parse(plan), "20kB"))["final_accuracy"])


def tolerance_of(case: str, plan: str) -> float:
    is_closed = get_recipe(Plan.parse(plan).recipe).anchor not in {"previous", "nothing"} and "codec=" not in plan
    return TOLERANCE if is_closed or case not in {"raw", "imbalance"} else LOOSE


@pytest.mark.parametrize("case", CASES)
def test_accuracies_are_what_they_were(case: str) -> None:
    golden = json.loads(GOLDEN.read_text())[case]
    found = {plan: accuracy_of(case, plan) for plan in PLANS}
    changed = {
        plan: f"{golden.get(plan)} -> {value:.2f}"
        for plan, value in found.items()
        if not abs(golden.get(plan, np.inf) - value) <= tolerance_of(case, plan)
    }
    assert changed == {}, "if it is meant: python -m tests.test_golden_accuracies"
    assert set(golden) == set(found)


def test_the_golden_file_has_room_for_change() -> None:
    """A file of nothing but 0 and 100 % would guard nothing."""
    for case, accuracies in json.loads(GOLDEN.read_text()).items():
        assert 50 < accuracies["edge"] < 99, case
        assert accuracies["edge"] > accuracies["finetune"] + 1, case


if __name__ == "__main__":
    text = json.dumps({case: {plan: round(accuracy_of(case, plan), 2) for plan in PLANS} for case in CASES}, indent=1)
    GOLDEN.write_text(text + "\n")
