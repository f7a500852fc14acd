"""The commands keygen, pack, deploy, slots and wrap, as a user types them one after the other."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_cl.cli import main

from .packed import learnt, samples


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start in a folder with a learnt state."""
    monkeypatch.chdir(tmp_path)
    learnt(tmp_path / "cam.ecl").close()


def run(*words: str, status: int = 0) -> tuple[str, str]:
    """Return what a command printed on stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main(words)
    assert (ended.value.code or 0) == status, err.getvalue()
    return out.getvalue(), err.getvalue()


def as_json(*words: str) -> Any:
    return json.loads(run(*words, "--json")[0])


def refused(*words: str) -> str:
    """Return the one line of an error, without the program's name."""
    out, err = run(*words, status=1)
    assert not out
    (line,) = err.splitlines()
    return line.removeprefix("edge-cl: ")


def test_from_a_state_to_what_runs() -> None:
    made = as_json("keygen", "key.pem", "--c", "door.h")
    assert made == {"key": "key.pem", "public": "key.pub.pem", "id": made["id"], "c": "door.h"}
    assert made["id"] in Path("door.h").read_text()
    packed = as_json("pack", "cam.ecl", "out.edgehead", "--key", "key.pem", "--product", "door cam", "--counter", "3")
    assert (packed["product"], packed["counter"], packed["rows"]) == ("door cam", 3, "int8")
    assert (packed["key_id"], packed["n_classes"], packed["notes"], packed["skipped"]) == (made["id"], 4, [], [])
    first = as_json(
        "deploy", "out.edgehead", "--to", "heads", "--key", "key.pub.pem", "--check", "test -f head.none -o -d"
    )
    assert (first["state"], first["version"], first["before"]) == ("active", 1, None)
    learnt(Path("more.ecl"), seed=1).close()
    run("learn", "more.ecl", *write_samples())
    run("pack", "more.ecl", "next.edgehead", "--key", "key.pem", "--product", "door cam", "--counter", "3", "--float32")
    out, err = run("deploy", "next.edgehead", "--to", "heads", "--tries", "2")
    assert "on trial for 2 starts of the app" in err
    assert "trial" in out
    found = as_json("slots", "heads")
    assert [(line["state"], line["version"], line["tries"]) for line in found] == [("active", 1, None), ("trial", 2, 2)]
    out, _ = run("slots", "heads", "--confirm")
    assert out.index("active") < out.index("before")
    assert refused("slots", "heads", "--reject") == "heads: no head is on trial there; see edge-cl slots heads"
    told = as_json("info", "next.edgehead")
    assert (told["product"], told["version"], told["counter"], told["rows"]) == ("door cam", 2, 3, "float32")
    assert told["key"] == as_json("info", "out.edgehead")["key"]
    out, _ = run("info", "out.edgehead")
    assert "UTC" in out
    assert ", ".join(told["classes"]) in out
    wrapped = as_json("wrap", "next.edgehead", "out.bin", "--slot-bytes", "64KiB", "--key", "key.pub.pem")
    assert (wrapped["version"], wrapped["counter"], wrapped["is_signed"]) == ("0.0.2", 3, False)


@pytest.mark.parametrize("there", ["key.pem", "key.pub.pem", "main.c"])
def test_a_c_header_replaces_no_key_and_no_other_file(there: str) -> None:
    text = f"{there}: is no C header of a key, and would be replaced; choose another name, as key.h"
    if there != "main.c":  # of a key that is only being made
        assert refused("keygen", "key.pem", "--c", there) == text
        assert b"PRIVATE KEY" in Path("key.pem").read_bytes()
    Path("main.c").write_text("int main(void);")
    before = content()
    assert refused("keygen", "key.pem", "--c", there) == text
    assert refused("keygen", "new.pem", "--c", "main.c").startswith("main.c: is no C header of a key")
    assert content() == before


def content() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path().iterdir()}


def write_samples() -> list[str]:
    features, names = samples(seed=2)
    np.savez("more.npz", X=features, y=names)
    return ["more.npz"]


def test_what_is_refused_is_one_line_and_status_1() -> None:
    run("keygen", "key.pem")
    run("keygen", "other.pem")
    assert refused("keygen", "key.pem").startswith("key.pem: is there already; choose another name")
    assert refused("pack", "cam.ecl", "a.edgehead", "--key", "key.pub.pem").startswith(
        "key.pub.pem: expected a private key to sign with; found a public one"
    )
    run("pack", "cam.ecl", "a.edgehead", "--key", "key.pem")
    run("pack", "cam.ecl", "b.edgehead", "--key", "other.pem", "--samples", *write_samples())
    assert refused("deploy", "a.edgehead", "--to", "heads").startswith("heads: has no key yet; pass it the first time")
    run("deploy", "a.edgehead", "--to", "heads", "--key", "key.pub.pem")
    assert "signed with another key" in refused("deploy", "b.edgehead", "--to", "heads")
    run("pack", "cam.ecl", "c.edgehead", "--key", "key.pem", "--counter", "1")
    assert "expected exit status 0; found 1" in refused("deploy", "c.edgehead", "--to", "heads", "--check", "false")
    assert refused("slots", "nowhere").startswith("nowhere: nothing is deployed there; type: edge-cl deploy")
    assert "No closing quotation" in run("deploy", "a.edgehead", "--to", "heads", "--check", "'open", status=2)[1]
    note = run("wrap", "a.edgehead", "out.bin", "--slot-bytes", "64KiB")[1]
    assert "without --signing-key the image has a hash alone" in note
