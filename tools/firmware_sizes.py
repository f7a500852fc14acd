"""What the C of firmware_bridge takes on each core: bytes of code, of RAM, and instructions per product, as tables.

    python tools/firmware_sizes.py                                  prints them
    python tools/firmware_sizes.py --write README.md     puts them between the marks of a page

Code is what a linked program has with `--gc-sections` for the functions that are asked for: instructions, constants,
and what the compiler brings (on M0 and M3 its floats). RAM is the structs and the deepest stack: the frames that the
compiler states (`-fcallgraph-info=su`) added up along the calls. A check of slots is taken to call the head's
functions; frames of the firmware's own callbacks, for the flash and the check, are not counted, nor those of the
compiler's functions for floats. Instructions are counted by QEMU (`-icount`) against a loop of a known number of them.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

from edge_firmware import INCLUDE, SOURCES

from edge_cl.files import write_whole

sys.path.append(str(Path(__file__).resolve().parents[1]))

from tests.c_builds import ARM, CORES, STRICT

Callbacks = dict[str, tuple[str, ...]]

COMPILER = ARM[0]
DEMO = SOURCES.parents[1] / "demo"  # has what Monocypher wants of a C library
VENDOR = SOURCES.parent / "vendor" / "monocypher"
HEAD = ("edge_head_open", "edge_head_logits_i8", "edge_argmax", "edge_top")
SLOTS = tuple(f"edge_slots_{verb}" for verb in ("open", "boot", "confirm", "reject", "spare", "try"))
MORE = {
    "canaries of int8 rows": ("edge_head_check_i8",),
    "float32 features to int8": ("edge_head_quantise",),
    "names and versions": ("edge_head_name", "edge_head_version", "edge_head_counter"),
    "float32 rows and their canaries": ("edge_head_logits_f32", "edge_head_check_f32"),
    "softmax": ("edge_softmax",),
    "texts of errors": ("edge_error_text",),
    "link": ("edge_link_byte",),
    "signature": ("edge_verify_ed25519",),
}
CHECKING = ("edge_head_open", "edge_head_check_i8")
CALLBACKS: Callbacks = {  # by what stands in the line that calls
    "->check(": CHECKING,
    "->verify(": ("edge_verify_ed25519",),
}
SIZES = '#include "edge_slot.h"\nchar of_head[sizeof(edge_head)], of_slots[sizeof(edge_slots)];\n'
INDIRECT = "__indirect_call"
FRAME = re.compile(r'node: \{ title: "([^"]*)" label: "[^"]* (\d+) bytes \((?:static|dynamic,bounded)\)')
CALL = re.compile(r'edge: \{ sourcename: "([^"]*)" targetname: "([^"]*)"(?: label: "([^"]*):(\d+):\d+")?')


def run(*line: str | Path) -> str:
    """Return what a command says."""
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout


def compiler_version() -> str:
    """Return the compiler and its version."""
    return f"{COMPILER} {run(COMPILER, '-dumpfullversion').strip()}"


class Build:
    """All units, compiled for a core."""

    def __init__(self, core: str, folder: Path) -> None:
        """Compile them.

        Args:
            core: a key of `CORES`.
            folder: for the objects.
        """
        self.folder = folder / core
        self.folder.mkdir()
        self.compiler = (*ARM, *CORES[core], "-Os", f"-I{INCLUDE}", f"-I{DEMO}")
        (self.folder / "sizes.c").write_text(SIZES)
        own = [(unit, STRICT) for unit in sorted(SOURCES.glob("edge_*.c"))]
        vendored = [(unit, ("-w",)) for unit in sorted(VENDOR.glob("*.c"))]
        units = (*own, *vendored, (DEMO / "memory.c", STRICT))
        self.objects = [self._compile(unit, options) for unit, options in units]

    def _compile(self, unit: Path, options: tuple[str, ...]) -> Path:
        target = self.folder / f"{unit.stem}.o"
        run(*self.compiler, *options, "-fcallgraph-info=su", "-c", unit, "-o", target)
        return target

    def code_bytes(self, functions: tuple[str, ...]) -> int:
        """Return the bytes of a program of these functions."""
        roots = [f"-Wl,-u,{name}" for name in functions]
        flags = ("-nostartfiles", "-nolibc", f"-Wl,--gc-sections,-e,{functions[0]}", *roots)
        run(*self.compiler, *flags, *self.objects, "-o", self.folder / "program")
        text, data = run("arm-none-eabi-size", self.folder / "program").splitlines()[1].split()[:2]
        return int(text) + int(data)

    def struct_bytes(self) -> int:
        """Return the bytes of an `edge_head` and an `edge_slots`."""
        lines = run("arm-none-eabi-nm", "-S", self._compile(self.folder / "sizes.c", ())).splitlines()
        return sum(int(line.split()[1], 16) for line in lines if "of_" in line)

    def stack_bytes(self, functions: tuple[str, ...], callbacks: Callbacks = CALLBACKS) -> int:
        """Return the deepest stack of any of these functions, and of what is called back."""
        return max(self._depth(name, callbacks, ()) for name in functions)

    def _depth(self, name: str, callbacks: Callbacks, path: tuple[str, ...]) -> int:
        assert name not in path, f"{name} calls itself"
        called: list[str] = []
        for target, line in self._calls.get(name, ()):
            found = [functions for text, functions in callbacks.items() if text in line]
            called += [target] if target != INDIRECT else [other for functions in found for other in functions]
        deepest = max((self._depth(other, callbacks, (*path, name)) for other in called), default=0)
        return self._frames.get(name, 0) + deepest

    @cached_property
    def _info(self) -> str:
        return "".join(file.read_text().replace("\\n", " ") for file in sorted(self.folder.glob("*.ci")))

    @cached_property
    def _frames(self) -> dict[str, int]:
        """The bytes of each function's frame."""
        return {name: int(n_bytes) for name, n_bytes in FRAME.findall(self._info)}

    @cached_property
    def _calls(self) -> dict[str, set[tuple[str, str]]]:
        """What each function calls, and the line that calls it."""
        calls: dict[str, set[tuple[str, str]]] = {}
        for source, target, file, number in CALL.findall(self._info):
            line = Path(file).read_text().splitlines()[int(number) - 1] if target == INDIRECT else ""
            calls.setdefault(source, set()).add((target, line))
        return calls


def size_table() -> str:
    """Return the bytes of code and RAM on each core as a table in Markdown."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
        columns = list(pool.map(lambda core: size_column(Build(core, Path(folder))), CORES))
    head = f"| bytes, {compiler_version()} -Os | {' | '.join(CORES)} |\n|---|{'--:|' * len(CORES)}\n"
    return head + "\n".join(f"| {what} | {' | '.join(column[what] for column in columns)} |" for what in columns[0])


def size_column(build: Build) -> dict[str, str]:
    """Return the bytes of code and RAM on a core, by what takes them."""
    both = HEAD + SLOTS
    least = build.code_bytes(both)
    found = {"**head**: open, checksum, int8 logits, argmax, top": f"{build.code_bytes(HEAD):,}"}
    found["**head and slots**"] = f"{least:,}"
    for what, functions in MORE.items():
        found[f"and {what}"] = f"+ {build.code_bytes(both + functions) - least:,}"
    everything = both + sum(MORE.values(), ())
    found["**all**"] = f"{build.code_bytes(everything):,}"
    small: Callbacks = {"->check(": CHECKING}
    found["RAM of head and slots, stack included"] = f"{build.struct_bytes() + build.stack_bytes(both, small):,}"
    found["stack of all"] = f"{build.stack_bytes(everything):,}"
    return found


def with_table(page: str, name: str, table: str) -> str:
    """Return a page with a table between `<!-- NAME -->` and `<!-- end -->`."""
    assert f"<!-- {name} -->" in page, f"no place for {name}"
    return re.sub(rf"<!-- {name} -->.*?<!-- end -->", f"<!-- {name} -->\n{table}\n<!-- end -->", page, flags=re.DOTALL)


def main() -> None:
    """Print the tables, or write them into a page."""
    from firmware_instructions import instruction_table

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="PAGE")
    asked = parser.parse_args()
    tables = {"SIZES": size_table(), "INSTRUCTIONS": instruction_table()}
    if asked.write is None:
        print("\n\n".join(tables.values()))
        return
    page = asked.write.read_text()
    for name, table in tables.items():
        page = with_table(page, name, table)
    write_whole(asked.write, page.encode())


if __name__ == "__main__":
    main()
