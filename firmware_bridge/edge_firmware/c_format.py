"""The formats as C: offsets, sizes, limits and errors, all from `formats`."""

from __future__ import annotations

from collections.abc import Iterator

from edge_firmware import formats
from edge_firmware.formats import ERRORS, Layout

START = """\
/* Offsets and numbers of the binary formats. Written by tools/write_formats.py from edge_firmware/formats.py: change
 * them there. */
#ifndef EDGE_FORMAT_H
#define EDGE_FORMAT_H
"""
END = """
#ifdef __cplusplus
extern "C" {
#endif

/* One row per error: the enum and the texts are made of it. */
#define EDGE_ERRORS(X) \\
ROWS

typedef enum edge_error {
#define EDGE_ERROR_NAME(name, text) EDGE_##name,
    EDGE_ERRORS(EDGE_ERROR_NAME)
#undef EDGE_ERROR_NAME
} edge_error;

#ifdef __cplusplus
}
#endif

#endif
"""


def c_header() -> str:
    """Return `edge_format.h`."""
    lines = [START]
    for name, value in vars(formats).items():
        if name.isupper() and isinstance(value, int):
            lines.append(f"#define EDGE_{name} {value:#x}u")
        elif isinstance(value, Layout):
            lines += ["", *_offsets(value), ""]
    names = ["OK" if name == "OK" else f"E_{name}" for name, _ in ERRORS]
    rows = [f'    X({name}, "{text}")' for name, (_, text) in zip(names, ERRORS, strict=True)]
    return "\n".join(lines) + END.replace("ROWS", " \\\n".join(rows))


def _offsets(layout: Layout) -> Iterator[str]:
    for field, offset in zip(layout.fields, layout.offsets, strict=True):
        yield f"#define {layout.name}_AT_{field.name.upper()} {offset}u"
    yield f"#define {layout.name}_SIZE {layout.size}u"


def table(layout: Layout) -> str:
    """Return the layout as a table in Markdown."""
    rows = [
        f"| {offset} | {field.type} | {field.name} | {field.text} |"
        for field, offset in zip(layout.fields, layout.offsets, strict=True)
    ]
    return "\n".join(["| offset | type | name | what |", "|---|---|---|---|", *rows])
