"""The C source of a head answers as the head does, compiles without a warning, and needs next to nothing."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_cl import Learner
from edge_cl.errors import ExportError
from edge_cl.export.c_source import LONGEST, to_c
from edge_cl.feature_map import FeatureMap
from edge_cl.head import Head, softmax
from edge_cl.hidden import Hidden
from edge_cl.look_rows import LookRows

from .conftest import Photos, clusters

Array = NDArray[Any]
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
C, CPP = ["cc", "-std=c99"], ["c++", "-std=c++17", "-x", "c++"]
ANSWER = """
#include "head.c"
#include <stdio.h>
int main(void) {
    static float features[EDGE_HEAD_D], logits[EDGE_HEAD_K], probabilities[EDGE_HEAD_K];
    static int rows[EDGE_HEAD_K + 1];
    while (fread(features, sizeof features, 1, stdin) == 1) {
        edge_head_logits(features, logits);
        edge_head_probabilities(features, probabilities);
        if (edge_head_top(probabilities, rows, EDGE_HEAD_K + 1) != EDGE_HEAD_K)
            return 1;
        fwrite(logits, sizeof logits, 1, stdout);
        fwrite(probabilities, sizeof probabilities, 1, stdout);
        fwrite(rows, sizeof *rows, EDGE_HEAD_K, stdout);
    }
    return 0;
}
"""
VALUES = """
#include "head.c"
#include <stdio.h>
int main(void) {
    static float features[EDGE_HEAD_D], values[EDGE_HEAD_K];
    while (fread(features, sizeof features, 1, stdin) == 1) {
        edge_head_values(features, values);
        fwrite(values, sizeof values, 1, stdout);
    }
    return 0;
}
"""
NAMES = """
#include "head.c"
#include <stdio.h>
#include <string.h>
int main(void) {
    int k;
    for (k = 0; k < EDGE_HEAD_K; k++)
        fwrite(edge_head_name(k), strlen(edge_head_name(k)) + 1, 1, stdout);
    return 0;
}
"""
WEIGHTS = """
#include "head.c"
#include <stdio.h>
int main(void) {
    fwrite(edge_head_weights, sizeof edge_head_weights, 1, stdout);
    fwrite(edge_head_bias, sizeof edge_head_bias, 1, stdout);
    return 0;
}
"""
OTHER = '#include "head.c"\nvoid other(const float *features, float *logits) { edge_head_logits(features, logits); }\n'
TWO = """
#include "head.c"
#include "head.c"
#include <stdio.h>
void other(const float *features, float *logits);
int main(void) {
    static float features[EDGE_HEAD_D], ours[EDGE_HEAD_K], theirs[EDGE_HEAD_K];
    edge_head_logits(features, ours);
    other(features, theirs);
    return ours[0] < theirs[0] || ours[0] > theirs[0];
}
"""
HOSTILE = (
    'a "quoted" \\name\\',
    "what??/ ??' ??( ???",
    "\\x41B \\n %s %n",
    "1\x7f2é3",
    "\U0001f9d1\u200d\U0001f680 astronaut",
    "*/ int main; /*",
    "größe 3",
    "'",
    "日本語" * 333,
    "\U0001f600" * 1000 + "/" + "\U0001f680" * 1000,
)


def compile_c(folder: Path, source: str, *units: str, flags: list[str] = C, options: list[str] | None = None) -> Path:
    """Return the program of units that include the source as `head.c`, or skip the test."""
    if shutil.which(flags[0]) is None:
        pytest.skip(f"needs the compiler {flags[0]}: apt-get install gcc g++ libc6-dev")
    (folder / "head.c").write_text(source, encoding="ascii")
    for number, unit in enumerate(units):
        (folder / f"unit{number}.c").write_text(unit)
    names = [f"unit{number}.c" for number in range(len(units))]
    line = [*flags, *STRICT, "-O2", *(options or []), *names, "-o", "program", "-lm"]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:3000]
    return folder / "program"


def run(program: Path, features: Array | None = None) -> bytes:
    data = b"" if features is None else features.astype("<f4").tobytes()
    return subprocess.run([program], input=data, capture_output=True, check=True).stdout


def answers(program: Path, features: Array, n_classes: int) -> tuple[Array, Array, Array]:
    """Return logits, probabilities and rows in their order, (N, K) each."""
    found = np.frombuffer(run(program, features), "<f4").reshape(len(features), 3, n_classes)
    return found[:, 0], found[:, 1], found[:, 2].copy().view("<i4")


def check(program: Path, features: Array, head: Head, feature_map: FeatureMap) -> None:
    """Compare what the program says with the head and its map."""
    wanted = head.logits(feature_map.apply(features))
    logits, probabilities, rows = answers(program, features, len(head.classes))
    np.testing.assert_allclose(logits, wanted, atol=1e-5 * np.abs(wanted).max())  # sums of float32 in another order
    np.testing.assert_allclose(probabilities, softmax(wanted), atol=1e-5)
    np.testing.assert_array_equal(rows, np.argsort(-probabilities, axis=1, kind="stable"))
    assert len(np.unique(wanted.argmax(axis=1))) > 1


@dataclass
class Parts:
    """What a case is made of."""

    dim: int = 37
    n_classes: int = 6
    seed: int = 0

    def head(self, form: str) -> Head:
        rng = np.random.default_rng(self.seed)
        weights, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((self.n_classes, self.dim), 6))
        names = tuple(f"c{k}" for k in range(self.n_classes))
        head = Head(names, weights, bias)
        if form == "looks":
            owners = np.array([0, 0, 0, 2, 5, 5])
            return Head(names, weights, bias, looks=LookRows(owners, weights[::-1] * 2, bias[::-1].copy()))
        if form == "mlp":
            units, rows = rng.normal(size=(9, self.dim + 1)), rng.normal(size=(self.n_classes, 9))
            hidden = Hidden(units.astype(np.float32), rows.astype(np.float32), np.zeros(0, np.float32))
            return Head(names, weights, bias, "mlp", hidden=hidden)
        if form == "cosine":
            return Head(names, weights, bias, "cosine", frame=rng.normal(size=(2, self.dim)).astype(np.float32))
        return head


MAPS = {
    "as they are": FeatureMap(37),
    "raised": FeatureMap(37, is_raised=True),
    "unit": FeatureMap(37, is_unit=True),
    "random": FeatureMap(12, 37, seed=3),
    "random with a constant": FeatureMap(12, 37, seed=3, constant=0.5),
    "all": FeatureMap(12, 37, is_unit=True, is_raised=True, seed=3, constant=0.5),
}


@pytest.mark.parametrize("form", ["linear", "looks", "mlp", "cosine"])
@pytest.mark.parametrize("name", MAPS)
def test_every_head_after_every_map(tmp_path: Path, form: str, name: str) -> None:
    head, feature_map = Parts().head(form), MAPS[name]
    features = np.random.default_rng(1).normal(size=(40, feature_map.n_inputs)).astype(np.float32)
    features[-1] = 0
    check(compile_c(tmp_path, to_c(head, feature_map, 7), ANSWER), features, head, feature_map)


@pytest.mark.parametrize(
    "options", [{}, {"head": "cosine"}, {"head": "mlp"}, {"random_features": 300}, {"backbone": "tiny"}], ids=str
)
def test_what_was_learnt_answers_as_the_learner(tmp_path: Path, photos: Photos, options: dict[str, Any]) -> None:
    with Learner.create(":memory:", **options) as learner:
        if "backbone" in options:
            paths = sorted(photos("a", "b", "c", "d", "e", "f", "g").glob("*/*.png"))
            learner.learn(paths, [path.parent.name for path in paths])
            samples: Any = paths
            assert learner.backbone is not None
            features = learner.backbone.extract(paths).features
        else:
            features, names = clusters(7, 20, 64, spread=3.0)
            learner.learn(features, names)
            samples = features
        head, feature_map = learner.head, learner.settings.feature_map(features.shape[1])
        program = compile_c(tmp_path, to_c(head, feature_map, learner.version), ANSWER)
        check(program, features, head, feature_map)
        _, probabilities, rows = answers(program, features, 7)
        predictions = learner.predict(samples, top=5)
        np.testing.assert_allclose(probabilities, predictions.probabilities, atol=1e-5)
        found = [[learner.classes[k] for k in row[:5]] for row in rows]
        assert found == [[name for name, _ in top] for top in predictions.top]


def test_a_regression_gives_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 9)).astype(np.float32)
    with Learner.create(":memory:", head="regression") as learner:
        learner.learn(x, x[:, :2] * 3 + 1)
        head, feature_map = learner.head, learner.settings.feature_map(9)
        source = to_c(head, feature_map, 1)
        assert "probabilities" not in source
        assert "math.h" not in source
        found = np.frombuffer(run(compile_c(tmp_path, source, VALUES), x), "<f4").reshape(60, 2)
        np.testing.assert_allclose(found, learner.predict(x).values, rtol=1e-5, atol=1e-5)


def test_names_come_out_byte_by_byte(tmp_path: Path) -> None:
    head = Head(HOSTILE, np.zeros((len(HOSTILE), 2), np.float32), np.zeros(len(HOSTILE), np.float32))
    assert max(len(name.encode()) for name in HOSTILE) > LONGEST
    for flags in (C, CPP, ["cc", "-std=c99", "-trigraphs", "-funsigned-char"]):
        found = run(compile_c(tmp_path, to_c(head, FeatureMap(2), 1), NAMES, flags=flags))
        assert [name.decode() for name in found.split(b"\0")[:-1]] == list(HOSTILE)


def test_no_bit_of_a_weight_is_lost(tmp_path: Path) -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 4000, dtype=np.uint64).astype(np.uint32)
    drawn = bits.view(np.float32)
    special = np.array([0.0, -0.0, 1e-45, -1e-45, 3.4028235e38, 1.1754944e-38, 1.0, 0.1], np.float32)
    weights = np.concatenate([special, drawn[np.isfinite(drawn)][:3000]])
    head = Head(tuple(map(str, range(8))), weights.reshape(8, -1), special)
    found = run(compile_c(tmp_path, to_c(head, FeatureMap(376), 1), WEIGHTS))
    assert found == weights.tobytes() + special.tobytes()


def test_equal_scores_come_in_the_order_of_their_rows(tmp_path: Path) -> None:
    weights = np.array([[1], [2], [1], [2], [2], [0]], np.float32)
    head = Head(tuple("abcdef"), weights, np.zeros(6, np.float32))
    program = compile_c(tmp_path, to_c(head, FeatureMap(1), 1), ANSWER)
    _, _, rows = answers(program, np.array([[1], [-1], [0]], np.float32), 6)
    assert rows.tolist() == [[1, 3, 4, 0, 2, 5], [5, 0, 2, 1, 3, 4], [0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize("flags", [C, CPP], ids=["C", "C++"])
@pytest.mark.parametrize("form", ["linear", "looks", "mlp"])
def test_two_units_and_both_languages(tmp_path: Path, flags: list[str], form: str) -> None:
    source = to_c(Parts().head(form), MAPS["all"], 2)
    assert run(compile_c(tmp_path, source, TWO, OTHER, flags=flags)) == b""
    compile_c(tmp_path, source, source, flags=flags, options=["-c"])  # by itself, too


def test_it_needs_two_functions_and_no_memory_that_changes(tmp_path: Path) -> None:
    if shutil.which("nm") is None:
        pytest.skip("needs nm: apt-get install binutils")
    unit = '#include "head.c"\nint main(void) { static const float x[EDGE_HEAD_D]; float p[EDGE_HEAD_K]; int row;\n'
    unit += "edge_head_probabilities(x, p); return edge_head_top(p, &row, 1) + edge_head_name(row)[0]; }\n"
    source = to_c(Parts().head("mlp"), MAPS["all"], 2)
    options = ["-c", "-ffreestanding", "-fno-pic", "-fno-math-errno", "-fno-stack-protector"]
    program = compile_c(tmp_path, source, unit, options=options)
    lines = subprocess.run(["nm", program], capture_output=True, text=True, check=True).stdout.splitlines()
    kinds = {line.split()[-1]: line.split()[-2] for line in lines}
    assert {name for name, kind in kinds.items() if kind == "U"} <= {"sqrtf", "expf"}
    assert set(kinds.values()) <= set("UTtr"), kinds


def test_what_no_compiler_would_take_is_refused_before_it_is_made() -> None:
    head = Head(("a", "b"), np.zeros((2, 10**5), np.float32), np.zeros(2, np.float32))
    with pytest.raises(
        ExportError, match=r"at most 64 MB.*found 1000300002 weights, 17005 MB; use kind head"
    ) as caught:
        to_c(head, FeatureMap(10**4, 10**5), 1)
    assert "fewer random features than 100000" in str(caught.value)
    wide = Head(("a", "b"), np.zeros((2, 2 * 10**6), np.float32), np.zeros(2, np.float32))
    with pytest.raises(ExportError, match=r"an ONNX file of the head alone$"):
        to_c(wide, FeatureMap(2 * 10**6), 1)


def test_a_weight_that_is_no_number_is_refused() -> None:
    head = Head(("a", "b"), np.full((2, 3), np.nan, np.float32), np.zeros(2, np.float32))
    with pytest.raises(ExportError, match="finite weights"):
        to_c(head, FeatureMap(3), 1)
