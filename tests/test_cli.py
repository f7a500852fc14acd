"""The command line as a user types it: real processes, exit statuses, JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_cl import Learner
from edge_cl.cli import COMMANDS

from .conftest import Photos, clusters
from .link_rigs import empty_device
from .test_images import png


def run(command: list[str], *args: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*command, *map(str, args)], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def as_json(command: list[str], *args: object, status: int = 0) -> Any:
    done = run(command, *args, "--json", status=status)
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


@pytest.fixture
def cam(tmp_path: Path, photos: Photos, command: list[str]) -> Path:
    """Return a state that knows a door and a window."""
    run(command, "new", tmp_path / "cam.ecl")
    run(command, "learn", tmp_path / "cam.ecl", photos("door", "window", folder="known"))
    return tmp_path / "cam.ecl"


def test_a_users_day(tmp_path: Path, photos: Photos, command: list[str]) -> None:
    cam, root = tmp_path / "cam.ecl", photos("door", "mail box")
    made = as_json(command, "new", cam, "--replay", "500kB", "--seed", 3)
    assert made == {
        "state": str(cam),
        "backbone": "tiny",
        "dim": 256,
        "recipe": "edge",
        "head": "linear",
        "replay_bytes": 500_000,
        "codec": "auto",
        "history_bytes": 32_000_000,
    }
    (root / "door" / "broken.jpg").write_bytes(b"x")
    learnt = as_json(command, "learn", cam, root)
    assert {key: learnt[key] for key in ("committed", "version", "new_classes", "n_samples", "retention")} == {
        "committed": True,
        "version": 1,
        "new_classes": ["door", "mail box"],
        "n_samples": 12,
        "retention": 1.0,
    }
    assert set(learnt) >= {"accuracy_before", "accuracy_after", "seconds", "skipped"}
    assert learnt["skipped"] == [{"path": str(root / "door" / "broken.jpg"), "reason": "not an image that can be read"}]
    (answer,) = as_json(command, "predict", cam, root / "door" / "1.png", "--top", 2)
    assert (answer["path"], answer["label"]) == (str(root / "door" / "1.png"), "door")
    assert [t["label"] for t in answer["top"]] == ["door", "mail box"]
    assert answer["probability"] == answer["top"][0]["probability"] > 0.5
    (root / "door" / "broken.jpg").unlink()
    result = as_json(command, "eval", cam, root)
    assert result["accuracy"] == result["class_mean_accuracy"] == 1.0
    assert (result["n"], result["per_class"]) == (12, {"door": 1.0, "mail box": 1.0})
    assert result["ms_per_sample"] > 0
    info = as_json(command, "info", cam)
    assert (info["version"], info["classes"]) == (1, ["door", "mail box"])
    assert set(info["backbone"]) == {"name", "sha256", "dim"}
    assert set(info["state_bytes"]) == {"head", "statistics", "fisher", "replay", "versions"}
    assert set(info["replay"]) == {"bytes", "codebook_bytes", "limit", "samples", "bytes_per_sample"}
    assert [v["version"] for v in as_json(command, "log", cam)["versions"]] == [1]
    exported = as_json(command, "export", cam, tmp_path / "cam.onnx")
    assert exported["bytes"] == (tmp_path / "cam.onnx").stat().st_size


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_a_table(cam: Path, command: list[str], name: str) -> None:
    assert "Usage:" in run(command, name, "--help").stdout
    root, old, delta = (cam.parent / part for part in ("known", "old.onnx", "delta.onnx"))
    if name in {"verify", "patch"}:
        run(command, "export", cam, old, "--kind", "head")
        run(command, "export", cam, delta, "--delta-from", 0)
    key, bundle, heads = (cam.parent / part for part in ("key.pem", "out.edgehead", "heads"))
    if name in {"pack", "push", "deploy", "slots", "wrap"}:
        run(command, "keygen", key)
    if name in {"push", "deploy", "slots", "wrap"}:
        run(command, "pack", cam, bundle, "--key", key)
    if name == "slots":
        run(command, "deploy", bundle, "--to", heads, "--key", key.with_suffix(".pub.pem"))
    inputs: dict[str, list[object]] = {
        "verify": [old, "--against", cam],
        "patch": [old, delta],
        "new": [cam.parent / "b.ecl"],
        "learn": [cam, root],
        "predict": [cam, root],
        "eval": [cam, root],
        "export": [cam, cam.parent / "c.onnx"],
        "keygen": [key, "--c", cam.parent / "key.h"],
        "pack": [cam, bundle, "--key", key],
        "push": [bundle, "--tcp"],
        "deploy": [bundle, "--to", heads, "--key", key],
        "slots": [heads],
        "wrap": [bundle, cam.parent / "out.bin", "--slot-bytes", "1MiB"],
        "info": [cam],
        "log": [cam],
        "diff": [cam, 1, 1],
        "rollback": [cam, 1],
        "forget": [cam, "door"],
        "set": [cam, "--replay", "20kB", "--history", "1MB"],
        "check": [cam],
        "tune": [cam, root, "--shrinkage", "auto", "--penalty", "auto"],
        "bench": ["accuracy", "--data", root, "--recipes", "edge", "--orders", 1],
        "demo": ["--out", cam.parent],
    }
    with empty_device(cam.parent) if name == "push" else nullcontext(()) as device:
        done = run(command, name, *inputs[name], *device[:1])
    assert len(done.stdout.splitlines()) > 3
    assert "…" not in done.stdout, "something was cut off"


def test_one_class_is_learnt_and_it_is_said(tmp_path: Path, photos: Photos, command: list[str]) -> None:
    run(command, "new", tmp_path / "a.ecl")
    done = run(command, "learn", tmp_path / "a.ecl", photos("only"))
    assert "one class only" in done.stderr


def test_features_and_a_csv_are_learnt_too(tmp_path: Path, photos: Photos, command: list[str], cam: Path) -> None:
    x, names = clusters(3, 8, 10)
    np.savez(tmp_path / "f.npz", X=x, y=names)
    run(command, "new", tmp_path / "f.ecl", "--backbone", "none")
    assert as_json(command, "learn", tmp_path / "f.ecl", tmp_path / "f.npz")["n_samples"] == 24
    assert as_json(command, "eval", tmp_path / "f.ecl", tmp_path / "f.npz")["accuracy"] > 0.9
    assert [a["label"] for a in as_json(command, "predict", tmp_path / "f.ecl", tmp_path / "f.npz")] == names
    root = photos("x", folder="loose")
    (root / "l.csv").write_text("path,label\nx/0.png,cups/mugs\nx/1.png,cups/mugs\ngone.png,cups/mugs\n")
    learnt = as_json(command, "learn", cam, root / "l.csv")
    assert learnt["new_classes"] == ["cups/mugs"]
    assert [Path(s["path"]).name for s in learnt["skipped"]] == ["gone.png"]


def test_a_refused_update_is_status_1_and_says_what_to_type(cam: Path, command: list[str]) -> None:
    before = cam.read_bytes()
    root = cam.parent / "known"
    (root / "door").rename(root / "x")
    (root / "window").rename(root / "door")
    (root / "x").rename(root / "window")
    for _ in range(2):
        done = run(command, "learn", cam, root, status=1)
        assert "refused" in done.stderr
        assert "--min-retention" in done.stderr
    assert cam.read_bytes() == before
    report = as_json(command, "learn", cam, root, status=1)
    assert report["committed"] is False
    assert report["version"] == 1


def bad_inputs(cam: Path) -> list[tuple[list[object], int, str]]:
    folder = cam.parent
    (folder / "empty").mkdir()
    (folder / "broken" / "a").mkdir(parents=True)
    (folder / "broken" / "a" / "b.jpg").write_bytes(b"")
    (folder / "zero.ecl").write_bytes(b"")
    (folder / "text.ecl").write_bytes(b"some text")
    (folder / "other.npz").write_bytes(b"x")
    return [
        (["learn", cam, folder / "gone"], 1, "no such file or folder"),
        (["learn", cam, folder / "empty"], 1, "expected class folders with images"),
        (["learn", cam, folder / "broken"], 1, "b.jpg: empty file"),
        (["learn", cam, folder / "broken", "--strict"], 1, "empty file"),
        (["learn", cam, folder / "other.npz"], 1, "expected an .npz"),
        (["learn", folder / "gone.ecl", folder / "known"], 1, "edge-cl new"),
        (["learn", folder / "zero.ecl", folder / "known"], 1, "empty file"),
        (["learn", folder / "text.ecl", folder / "known"], 1, "begins with"),
        (["learn", cam, folder / "known", "--min-retention", 2], 2, "range"),
        (["learn", cam], 2, "Missing argument"),
        (["new", cam], 1, "exists already"),
        (["new", folder / "b.ecl", "--backbone", folder / "no.onnx"], 1, "no such file"),
        (["new", folder / "b.ecl", "--backbone", cam], 1, "expected an ONNX model"),
        (["new", folder / "b.ecl", "--replay", "much"], 2, "expected bytes"),
        (["new", folder / "b.ecl", "--mean", "1,2"], 2, "3 numbers"),
        (["new", folder / "b.ecl", "--recipe", "magic"], 2, "magic"),
        (["predict", cam, folder / "gone.jpg"], 1, "no such file"),
        (["predict", cam, folder / "empty"], 1, "empty: expected at least one image"),
        (["predict", "", folder / "known"], 2, "empty one"),
        (["new", ":memory:"], 2, "keeps nothing"),
        (["new", folder / "b.ecl", "--scale", "1/0"], 2, "numbers"),
        (["new", folder / "b.ecl", "--backbone", folder], 1, "no such file"),
        (["predict", cam, folder / "broken" / "a" / "b.jpg"], 1, "empty file"),
        (["export", cam, folder], 1, "found a folder"),
        (["export", cam, folder / "no" / "a.onnx"], 1, "cannot be written"),
        (["eval", cam, folder / "empty"], 1, "expected class folders"),
        (["demo", "--out", folder / "no"], 1, "expected a folder"),
        (["dance"], 2, "No such command"),
    ]


def test_bad_input_is_one_line_the_right_status_and_no_change(cam: Path, command: list[str]) -> None:
    cases = bad_inputs(cam)
    before = cam.read_bytes()
    for args, status, wanted in cases:
        done = run(command, *args, status=status)
        assert wanted in done.stderr, (args, done.stderr)
        if status == 1:
            assert len(done.stderr.splitlines()) == 1, done.stderr
        assert cam.read_bytes() == before
        assert not (cam.parent / "b.ecl").exists()


def test_photos_of_every_kind_are_learnt_and_broken_ones_only_listed(
    cam: Path, photos: Photos, command: list[str]
) -> None:
    folder = photos("mixed", n_images=2, folder="odd") / "mixed"
    with Image.open(folder / "0.png") as image:
        image.convert("RGBA").save(folder / "rgba.png")
        image.convert("L").save(folder / "grey.jpg")
        image.convert("CMYK").save(folder / "cmyk.jpg")
        image.save(folder / "moving.gif", save_all=True, append_images=[image.rotate(90)])
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(folder / "turned.jpg", exif=exif)
        Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257).save(folder / "deep.png")
        image.save(folder / "whole.jpg")
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:600])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("no image")
    (folder / "huge.png").write_bytes(png(50_000, 50_000))
    before = cam.read_bytes()
    assert "nothing was learnt" in run(command, "learn", cam, folder.parent, "--strict", status=1).stderr
    assert cam.read_bytes() == before
    report = as_json(command, "learn", cam, folder.parent)
    assert report["committed"]
    assert report["n_samples"] == 9
    assert {Path(item["path"]).name for item in report["skipped"]} == {"cut.jpg", "empty.jpg", "text.jpg", "huge.png"}
    with Learner.open(cam, read_only=True) as learner:
        assert learner._current.memory().statistics.counts.tolist() == [6, 6, 9]


def test_output_that_cannot_be_written_or_encoded_is_no_traceback(
    tmp_path: Path, photos: Photos, command: list[str]
) -> None:
    run(command, "new", tmp_path / "a.ecl")
    run(command, "learn", tmp_path / "a.ecl", photos("größe", "猫"))
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    for args in (["info", str(tmp_path / "a.ecl")], ["info", str(tmp_path / "a.ecl"), "--json"]):
        done = subprocess.run([*command, *args], capture_output=True, env=ascii_only, check=True)
        assert b"Traceback" not in done.stderr
    assert json.loads(done.stdout)["classes"] == ["größe", "猫"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*command, *args], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(b"edge-cl: output: No space left")


def test_ctrl_c_in_the_middle_of_a_learn_changes_nothing(cam: Path, photos: Photos, command: list[str]) -> None:
    before = cam.read_bytes()
    root = photos("a", "b", "c", "d", n_images=400, folder="many")
    child = subprocess.Popen([*command, "learn", str(cam), str(root)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not os.path.exists(f"{cam}-wal") and time.monotonic() < deadline:
        time.sleep(0.01)  # the state is open now
    time.sleep(0.3)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 1
    assert errors.strip() == "edge-cl: interrupted; the state is the last committed version, whole"
    assert cam.read_bytes() == before
    assert not os.path.exists(f"{cam}-wal")
