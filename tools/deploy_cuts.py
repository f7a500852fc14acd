"""Cut the power at every change that a deployment makes to its folder, and start the app from what is left.

A process that deploys is traced by strace; what it does to the disk is done again, and after each change the disk is
left as a power cut may leave it (see `power_cut_states`): with and without what was not synced, names before contents.
From each such state these promises must hold:

- `current` gives the head before or the new one, whose signature and canaries it has checked, and it starts;
- a head whose check has not passed is not given;
- once a command has said that it is done, the power cut does not undo it;
- the next deployment goes through, and leaves two versions.

Usage: python tools/deploy_cuts.py [--states N] [--seed N] [--case NAME] [--unsynced] [--json]; exit status 1 where a
promise was broken, 2 where there is no strace. With --unsynced all is done as if nothing had been synced, which has to
break promises.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from edge_firmware import current, deploy, pack
from edge_firmware.bundle import read_bundle
from edge_firmware.keys import PublicKey, SigningKey
from edge_firmware.versions import BUNDLE, list_versions
from power_cut_states import Acknowledge, Disk, Op, Sync, SyncFolder
from power_cut_trace import TraceError, trace

from edge_cl import Learner
from edge_cl.errors import SlotError

KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
KINDS = ("nothing", "everything", "random", "names", "data")
NONE = 0
START = "import sys; from edge_firmware import *; folder, told, bundles = sys.argv[1:]; second = bundles + '/2'; "
SAY = "; open(told, 'w').write('done')"
FIRST = "deploy(bundles + '/1', folder, key=bundles + '/key.pub.pem'"
TRY = "from edge_cl.errors import SlotError\ntry:\n    "
FAILS = ", check=['false'])\nexcept SlotError:\n    open(told, 'w').write('done')"


@dataclass(frozen=True)
class Case:
    """What a process does.

    Attributes:
        name: of it.
        code: that it runs.
        has_first: whether the first head was deployed before, and
        is_trial: whether the second one is on trial.
        during: versions that may start while it runs; 0: none.
        after: versions that may start when it said that it was done.
    """

    name: str
    code: str
    has_first: bool
    is_trial: bool
    during: frozenset[int]
    after: frozenset[int]


def case(name: str, code: str, during: set[int], after: set[int], **before: bool) -> Case:
    """Return a case."""
    is_trial, has_first = before.get("is_trial", False), before.get("has_first", True)
    return Case(name, START + code, has_first, is_trial, frozenset(during), frozenset(after))


CASES = (
    case("first", f"{FIRST}){SAY}", {0, 1}, {1}, has_first=False),
    case("first fails", f"{TRY}{FIRST}{FAILS}", {0}, {0}, has_first=False),
    case("update", f"deploy(second, folder){SAY}", {1, 2}, {2}),
    case("checked", f"deploy(second, folder, check=['true']){SAY}", {1, 2}, {2}),
    case("failing", f"{TRY}deploy(second, folder{FAILS}", {1}, {1}),
    case("trial", f"deploy(second, folder, tries=2){SAY}", {1, 2}, {2}),
    case("start", f"current(folder){SAY}", {2}, {1, 2}, is_trial=True),
    case("confirm", f"confirm(folder){SAY}", {2}, {2}, is_trial=True),
    case("reject", f"reject(folder){SAY}", {1, 2}, {1}, is_trial=True),
)


def make_bundles(folder: Path) -> None:
    """Write bundles of the versions 1, 2 and 3, and the public key."""
    rng = np.random.default_rng(0)
    features = (np.repeat(np.eye(3, 8), 8, axis=0) * 5 + rng.uniform(size=(24, 8))).astype(np.float32)
    with Learner.create(":memory:", device="cpu") as learner:
        for version in (1, 2, 3):
            learner.learn(features, list("aaaaaaaabbbbbbbbcccccccc"), min_retention=0)
            pack(learner, folder / str(version), key=KEY, product="cam")
    (folder / "key.pub.pem").write_bytes(KEY.public.to_pem())


def started(folder: Path) -> int:
    """Return the version that starts; 0: none."""
    try:
        path = current(folder)
    except SlotError:
        return NONE
    return read_bundle(path / BUNDLE, KEY.public).version


def judge(folder: Path, bundles: Path, allowed: frozenset[int]) -> str:
    """Return which promise is broken; "" where none is."""
    found = started(folder)
    if found not in allowed:
        return f"version {found} starts, of {sorted(allowed)}"
    public = PublicKey(KEY.public.point)
    deploy(bundles / "3", folder, key=public)
    if started(folder) != 3:
        return "the next deployment does not start"
    left = list_versions(folder / "versions")
    return f"{len(left)} versions are left: {left}" if len(left) > 2 else ""


def write_state(folder: Path, state: dict[str, bytes | None]) -> None:
    """Make a folder with the files of a state."""
    folder.mkdir()
    for path, data in state.items():
        if data is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(data)


def traced(case: Case, base: Path, bundles: Path) -> tuple[list[Op], list[Op]]:
    """Return what makes the folder before a case, and what the case did to it."""
    folder, told = base / "traced", base / "told"
    folder.mkdir()
    if case.has_first:
        deploy(bundles / "1", folder, key=KEY.public)
    if case.is_trial:
        deploy(bundles / "2", folder, tries=2)
    found = trace([sys.executable, "-c", case.code, str(folder), str(told), str(bundles)], folder, told)
    shutil.rmtree(folder)
    return found


def try_case(case: Case, n_states: int, seed: int, *, is_synced: bool = True) -> dict[str, Any]:
    """Return how many changes and states there were, and which states broke a promise."""
    rng, broken = random.Random(seed), []
    with tempfile.TemporaryDirectory() as made:
        base = Path(made).resolve()
        bundles = base / "bundles"
        bundles.mkdir()
        make_bundles(bundles)
        before, ops = traced(case, base, bundles)
        ops = [op for op in ops if is_synced or not isinstance(op, Sync | SyncFolder)]
        cuts = [(cut, kind) for kind in KINDS for cut in range(len(ops) + 1)]
        while len(cuts) < n_states:
            cuts.append((rng.randrange(len(ops) + 1), rng.choice(KINDS[2:])))
        cuts = sorted([*rng.sample(cuts, n_states - 1), (len(ops), KINDS[0])])  # the last: what was said to be done
        disk, n_applied = Disk(), 0
        for op in before:
            disk.apply(op)
        for cut, kind in cuts:
            for op in ops[n_applied:cut]:
                disk.apply(op)
            n_applied = cut
            write_state(base / "state", disk.cut(rng, kind))
            is_done = any(isinstance(op, Acknowledge) for op in ops[:cut])
            try:
                reason = judge(base / "state", bundles, case.after if is_done else case.during)
            except Exception as error:  # whatever is raised is a broken promise as well
                reason = f"{type(error).__name__}: {error}"
            if reason:
                broken.append(f"after change {cut} of {len(ops)}, {kind}: {reason}")
            shutil.rmtree(base / "state")
    return {**{"case": case.name, "changes": len(ops), "states": len(cuts)}, "broken": broken}


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--states", type=int, default=100, help="of each case, at least 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", choices=[case.name for case in CASES], help="one alone")
    parser.add_argument("--unsynced", action="store_true", help="as if nothing had been synced")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    try:
        chosen = [case for case in CASES if asked.case in {None, case.name}]
        found = [try_case(case, asked.states, asked.seed, is_synced=not asked.unsynced) for case in chosen]
    except TraceError as error:
        print(error, file=sys.stderr)
        return 2
    if asked.json:
        print(json.dumps(found))
    else:
        for line in found:
            print(
                f"{line['case']:11} {line['changes']:4} changes {line['states']:5} states {len(line['broken'])} broken"
            )
            for text in line["broken"][:10]:
                print(f"    {text}")
    return int(any(line["broken"] for line in found))


if __name__ == "__main__":
    sys.exit(main())
