"""Tasks: classes of several heads in one state, told apart by the task that the caller names.

A class of a task is a row under the name TASK/CLASS, so that two tasks may both have a class of one name.
"""

from __future__ import annotations

from typing import Any

from edge_cl.errors import InputError
from edge_cl.head import TASK_END, Head, join_name
from edge_cl.inputs import clean_name


def clean_task(task: Any) -> str | None:
    """Return the name of a task, or None for none.

    Raises:
        InputError: it cannot be one.
    """
    if task is None:
        return None
    try:
        name = clean_name(task)
    except InputError as error:
        raise InputError(str(error).replace("class name", "task", 1)) from None
    if TASK_END in name:
        raise InputError(f"task: expected a name without {TASK_END!r}; found {name!r}")
    return name


def check_task(state: str, head: Head | None, task: str | None) -> None:
    """Check that a task may be learnt beside the classes that are there.

    Args:
        state: name of the state, for the error.
        head: None before the first update.
        task: None for none.

    Raises:
        InputError: some classes would be of a task, and some of none.
    """
    if head is None or not head.classes:
        return
    if head.kind == "regression" and task is not None:
        raise InputError(f"{state}: task: a regression has no classes, and so no tasks; leave it out")
    if head.has_tasks and task is None:
        raise InputError(f"{state}: task: expected one of {_some(head.tasks)}, or a new one; found none; --task NAME")
    if not head.has_tasks and task is not None:
        raise InputError(
            f"{state}: task: its {len(head.classes)} classes are of no task; found {task!r}; leave it out, or make "
            "a state that begins with tasks: edge-cl new NAME.ecl"
        )


def head_of(state: str, head: Head, task: str | None) -> Head:
    """Return the part of a head that answers for a task.

    Args:
        state: name of the state, for the error.
        head: that has classes.
        task: None for none.

    Raises:
        InputError: there is no such task, or one has to be named.
    """
    if not head.has_tasks and task is None:
        return head
    if not head.has_tasks:
        raise InputError(f"{state}: task: its classes are of no task; found {task!r}; leave it out")
    if task not in head.tasks:
        found = "none; --task NAME" if task is None else repr(task)
        raise InputError(f"{state}: task: expected one of {_some(head.tasks)}; found {found}")
    return head.of_task(task)


def name_rows(names: list[str], task: str | None) -> list[str]:
    """Return the names of the rows for names of classes of a task, or of none."""
    return names if task is None else [join_name(task, name) for name in names]


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
