"""A model card in Markdown (Mitchell 2019): what the classifier is for, what it learnt when, how right it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edge_cl.export.kinds import ExportReport
from edge_cl.export.learnt import Learnt
from edge_cl.export.losses import Loss
from edge_cl.state import Version

Facts = Mapping[str, tuple[int, int, float | None]]  # of each class: samples seen, samples stored, accuracy


def write_card(learnt: Learnt, facts: Facts, versions: Sequence[Version], report: ExportReport) -> str:
    """Return the text of a card.

    Args:
        learnt: what was exported.
        facts: of each class.
        versions: the state's log.
        report: of the export.
    """
    head, training = learnt.head, learnt.training
    what = "outputs" if head.kind == "regression" else "classes"
    lines = [
        f"# {_cell(report.path)}",
        "",
        f"A {head.kind} head of {len(head.classes)} {what}, version {learnt.version} of its state.",
        "",
        "| | |",
        "|---|---|",
        f"| kind | {report.kind} |",
        f"| bytes | {report.n_bytes:,} |",
        f"| backbone | {_backbone(learnt)} |",
        f"| input | {_input(learnt)} |",
        f"| recipe | {training['recipe']}, stored samples as {training['codec']} |",
        f"| samples learnt | {training.get('samples', sum(training['samples_of_classes'])):,} |",
        f"| time of the version | {training.get('created', 'unknown')} |",
    ]
    for name, loss in (("head in int8", report.head_loss), ("backbone in int8 or float16", report.backbone_loss)):
        if loss is not None:
            lines.append(f"| {name} | {_loss(loss)} |")
    return "\n".join([*lines, "", *_classes(head.classes, facts), "", *_history(versions), ""])


def _classes(names: Sequence[str], facts: Facts) -> list[str]:
    """Return a table of the classes, the least accurate first."""
    known = [accuracy for name in names if (accuracy := facts[name][2]) is not None]
    mean = f" Their mean is {100 * sum(known) / len(known):.1f} %." if known else ""
    lines = [
        "## Classes",
        "",
        'Accuracy is that on the stored samples of the class, each asked as if it had never been learnt; "-" stands '
        f"where no sample is stored or could be asked.{mean} It is that of the state, in float32.",
        "",
        "| class | row | samples | asked of | accuracy |",
        "|---|---:|---:|---:|---:|",
    ]
    order = sorted(range(len(names)), key=lambda row: (facts[names[row]][2] is None, facts[names[row]][2] or 0.0, row))
    for row in order:
        samples, stored, accuracy = facts[names[row]]
        share = "-" if accuracy is None else f"{100 * accuracy:.1f} %"
        lines.append(f"| {_cell(names[row])} | {row} | {samples:,} | {stored:,} | {share} |")
    return lines


def _history(versions: Sequence[Version]) -> list[str]:
    """Return a table of what was learnt when, the latest first."""
    lines = [
        "## What was learnt when",
        "",
        "| version | time (UTC) | change | samples | new classes | accuracy |",
        "|---:|---|---|---:|---|---:|",
    ]
    for version in reversed(versions):
        change = f"{version.kind} to {version.restored}" if version.restored else version.kind
        new = ", ".join(map(_cell, version.new_classes)) or "-"
        accuracy = f"{100 * version.accuracy_after:.1f} %" if version.kind == "learn" else "-"
        lines.append(
            f"| {version.version} | {version.created} | {change} | {version.n_samples:,} | {new} | {accuracy} |"
        )
    return lines


def _backbone(learnt: Learnt) -> str:
    info = learnt.info
    return f"{_cell(info.name)}, sha256 {info.sha256}" if info else "none: samples are features"


def _input(learnt: Learnt) -> str:
    if learnt.info is None:
        return f"features (N, {learnt.feature_map.n_inputs}) float32"
    height, width = learnt.info.preprocessing.input_size
    return f"RGB images, seen at {height} x {width}: {learnt.info.preprocessing.to_json()}"


def _loss(loss: Loss) -> str:
    return f"{100 * loss.after:.2f} % instead of {100 * loss.before:.2f} %, on {loss.n_samples:,} samples"


def _cell(text: str) -> str:
    """Return text that ends no cell and begins no markup."""
    return "".join(f"\\{c}" if c in "\\|`*_[]<>#" else c for c in text)
