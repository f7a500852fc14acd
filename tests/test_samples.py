"""Labelled samples on disk, and what a caller may pass."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_cl.errors import InputError
from edge_cl.inputs import check_samples, clean_labels, clean_name
from edge_cl.samples import list_images, read_features, read_samples

from .conftest import Photos


def test_a_folder_is_its_class_folders_in_order(photos: Photos) -> None:
    root = photos("zebra crossing", "ångström", n_images=2)
    (root / "zebra crossing" / "0.png").rename(root / "zebra crossing" / "0.PNG")
    found = read_samples(root)
    assert list(found.labels) == ["zebra crossing"] * 2 + ["ångström"] * 2
    assert [Path(p).name for p in found.samples] == ["0.PNG", "1.png", "0.png", "1.png"]
    assert found.skipped == ()


def test_a_folder_of_data_sets_does_not_become_two_classes(photos: Photos) -> None:
    root = photos("train/a", "train/b", "test/a")
    with pytest.raises(InputError, match="found none"):
        read_samples(root)
    assert len(list_images(root).samples) == 18


def test_links_are_followed_but_not_in_circles_and_dangling_ones_are_told(photos: Photos, tmp_path: Path) -> None:
    root = photos("a", n_images=1)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "b").symlink_to(root / "a")
    (root / "a" / "round").symlink_to(root)
    (root / "a" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert [Path(p).name for p in list_images(tmp_path / "links").samples] == ["0.png", "gone.jpg"]
    assert [Path(p).name for p in read_samples(root).samples] == ["0.png", "gone.jpg"]


def test_other_files_are_listed_and_hidden_ones_passed_over(photos: Photos) -> None:
    root = photos("a", n_images=1)
    (root / "a" / ".DS_Store").write_bytes(b"x")
    (root / "a" / "Thumbs.db").write_bytes(b"x")
    (root / ".git").mkdir()
    (root / "a" / "notes.txt").write_text("hello")
    (root / "loose.png").write_bytes(b"x")
    (root / "empty").mkdir()
    found = read_samples(root)
    assert len(found.samples) == 1
    assert {(Path(s.path).name, s.reason) for s in found.skipped} == {
        ("notes.txt", "no image by its suffix"),
        ("loose.png", "not in a class folder"),
        ("empty", "a class folder without an image"),
    }


def test_csv_rows_are_paths_beside_it_and_names_with_anything(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text('path,label\nx/a.png,"cups/mugs, small"\n\nb.png,größe 3\n', encoding="utf-8-sig")
    found = read_samples(tmp_path / "l.csv")
    assert list(found.labels) == ["cups/mugs, small", "größe 3"]
    assert found.samples == [str(tmp_path / "x/a.png"), str(tmp_path / "b.png")]


def test_npz_may_name_its_classes(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", X=np.eye(3), y=[1, 0, 1], classes=["cat", "dog"])
    found = read_samples(tmp_path / "f.npz")
    assert list(found.labels) == ["dog", "cat", "dog"]
    np.testing.assert_array_equal(read_features(tmp_path / "f.npz"), np.eye(3))


def bad_npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("name", ["gone", "empty", "flat", "file.txt", "one.csv", "none.csv", "latin.csv", "x.npz"])
def test_what_holds_no_samples_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.txt").write_text("x")
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "one.csv").write_text("a.png\n")
    (tmp_path / "none.csv").write_text("path,label\n")
    (tmp_path / "latin.csv").write_bytes(b"a.png,caf\xe9\n")
    (tmp_path / "x.npz").write_bytes(b"PK no zip")
    with pytest.raises(InputError) as caught:
        read_samples(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arrays",
    [
        {"X": np.eye(2)},
        {"y": np.zeros(2)},
        {"X": np.eye(2), "y": np.array([0, 5]), "classes": np.array(["a", "b"])},
        {"X": np.eye(2), "y": np.array([0.5, 1]), "classes": np.array(["a", "b"])},
        {"X": np.array([object()]), "y": np.zeros(1)},
        {"X": np.array(1.0), "y": np.zeros(1)},
        {"X": np.eye(2), "y": np.zeros(2, int), "classes": np.array("a")},
    ],
)
def test_npz_without_its_arrays_or_with_pickles_is_refused(tmp_path: Path, arrays: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        read_samples(bad_npz(tmp_path / "f.npz", **arrays))


def test_a_place_without_anything_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        list_images(tmp_path / "gone")


def test_an_npy_by_the_wrong_name_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.eye(2))
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    with pytest.raises(InputError, match="expected an \\.npz"):
        read_samples(tmp_path / "x.npz")


def test_hidden_folders_are_passed_over(photos: Photos) -> None:
    root = photos("a", n_images=1)
    (root / "a" / ".checkpoints").mkdir()
    (root / "a" / ".checkpoints" / "0.png").write_bytes((root / "a" / "0.png").read_bytes())
    assert len(read_samples(root).samples) == 1


@pytest.mark.parametrize("name", ["a b", "größe", "猫", "a/b", "x" * 300, "7", "-1", "🙂"])
def test_names_of_all_kinds_are_names(name: str) -> None:
    assert clean_name(name) == name


def test_one_name_is_one_class_however_it_is_written() -> None:
    assert clean_name(unicodedata.normalize("NFD", "café")) == clean_name("café")
    assert clean_labels([3, np.int64(4), np.str_("x"), " y "], 4) == ["3", "4", "x", "y"]


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\0", "x" * 1001, 1.5, None, True, b"x", "\udce9", "a\u2028b"])
def test_what_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(InputError, match="class name"):
        clean_name(name)


def test_labels_must_be_as_many_as_the_samples() -> None:
    with pytest.raises(InputError, match="expected 3, one for each sample; found 2"):
        clean_labels(["a", "b"], 3)
    with pytest.raises(InputError, match="sequence"):
        clean_labels("abc", 3)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int32, np.uint8, bool])
def test_features_of_any_real_type_and_layout_become_float32(dtype: Any) -> None:
    x = np.asfortranarray(np.random.default_rng(0).integers(0, 2, (5, 4))[::2].astype(dtype))
    found = check_samples(x, 4, has_backbone=False)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, x)


@pytest.mark.parametrize(
    "samples",
    [
        np.array([[1.0, np.nan]]),
        np.array([[1.0, np.inf]]),
        np.array([[1e300, 1.0]]),
        np.array([[1e13, 1.0]]),
        np.zeros((2, 20_000)),
        np.array(1.0),
        None,
        7,
        np.zeros((2, 3)),
        np.zeros(2),
        np.zeros((2, 2, 2)),
        np.zeros((2, 0)),
        np.array([["a", "b"]]),
        np.array([[1j, 0]]),
        np.array([[None, 1]]),
        [],
        [[1, 2], [3]],
        ["a.png"],
        "a.png",
        b"a.png",
        Path("a.png"),
    ],
)
def test_what_are_no_features_is_refused(samples: Any) -> None:
    with pytest.raises(InputError, match=r"expected|samples"):
        check_samples(samples, 2, has_backbone=False)


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 8, 8, 4), (2, 0, 8, 3), (8,)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="expected images"):
        check_samples(np.zeros(shape, np.uint8), 2, has_backbone=True)
