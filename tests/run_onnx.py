"""Answers of ONNX files in one runtime, as a program for interpreters that have nothing but it.

`python run_onnx.py onnxruntime|opencv|reference` prints `{"version": ...}`; then each line that it reads,
`{"models": [PATH, ...], "inputs": NPZ, "outputs": NPZ}`, is answered by `{"error": ""}` or by why it cannot be done.
The first model reads the inputs, the next one what it gave. All is run twice, the second time on the first sample
alone, whose outputs are under `first.NAME`.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Arrays = dict[str, Any]
Model = Callable[[Arrays], Arrays]
SAMPLES = ("pixels", "features", "image")


def open_onnxruntime(path: str) -> Model:
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    known = [node.name for node in (*session.get_inputs(), *session.get_overridable_initializers())]
    names = [node.name for node in session.get_outputs()]

    def answer(inputs: Arrays) -> Arrays:
        given = {name: inputs[name] for name in known if name in inputs}
        return dict(zip(names, session.run(names, given), strict=True))

    return answer


def open_opencv(path: str) -> Model:
    cv2: Any = importlib.import_module("cv2")
    net = cv2.dnn.readNetFromONNX(path)
    names = net.getUnconnectedOutLayersNames()

    def answer(inputs: Arrays) -> Arrays:
        for name, value in inputs.items():
            net.setInput(value, name)
        return dict(zip(names, net.forward(names), strict=True))

    return answer


def open_reference(path: str) -> Model:
    evaluator: Any = importlib.import_module("onnx.reference").ReferenceEvaluator(path)

    def answer(inputs: Arrays) -> Arrays:
        given = {name: inputs[name] for name in evaluator.input_names if name in inputs}
        return dict(zip(evaluator.output_names, evaluator.run(None, given), strict=True))

    return answer


OPENERS = {
    "onnxruntime": ("onnxruntime", open_onnxruntime),
    "opencv": ("cv2", open_opencv),
    "reference": ("onnx", open_reference),
}


def work(opener: Callable[[str], Model], job: dict[str, Any]) -> None:
    with np.load(job["inputs"]) as file:
        inputs = dict(file)
    models = [opener(path) for path in job["models"]]
    first = {name: value[:1] if name in SAMPLES else value for name, value in inputs.items()}
    outputs: Arrays = {}
    for prefix, samples in (("", inputs), ("first.", first)):
        given = samples
        for model in models:
            given = model(given)
        outputs.update({prefix + name: np.asarray(value) for name, value in given.items()})
    np.savez(job["outputs"], **outputs)


def main() -> None:
    package, opener = OPENERS[sys.argv[1]]
    print(json.dumps({"version": importlib.import_module(package).__version__}), flush=True)
    for line in sys.stdin:
        error = ""
        try:
            work(opener, json.loads(line))
        except Exception as caught:  # whatever a runtime has against a model is the answer
            error = f"{type(caught).__name__}: {caught}"
        print(json.dumps({"error": error}), flush=True)


if __name__ == "__main__":
    main()
