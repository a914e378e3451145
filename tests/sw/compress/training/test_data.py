from __future__ import annotations

import gzip
import io
import json
import pickle
import random
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import msvq
from sw.compress.__main__ import main as compress_main
from sw.compress.commands.mosaics import main, mosaics
from sw.compress.methods import CompressError, Recipe
from sw.compress.training.data import ImageData, Preprocessing, crop_boxes, load_data, read_classes
from sw.compress.training.settings import OTHER_IMAGE_SUFFIXES

CPU = torch.device("cpu")


def pixels(count: int, size: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(params=["python", "binary", "npz"])
def data_set(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """Six training images in two parts, in each of the formats."""
    images, labels = pixels(6), np.arange(6) % 3
    flat = images.transpose(0, 3, 1, 2).reshape(6, -1)
    if request.param == "npz":
        path = tmp_path / "data.npz"
        np.savez(path, train_images=images, train_labels=labels, test_images=images[:2], test_labels=labels[:2])
    elif request.param == "python":
        parts = {
            f"data_batch_{i + 1}": pickle.dumps(
                {b"data": flat[3 * i : 3 * i + 3], b"labels": labels[3 * i : 3 * i + 3].tolist()}
            )
            for i in range(2)
        }
        parts["test_batch"] = pickle.dumps({b"data": flat[:2], b"labels": labels[:2].tolist()})
        path = archive(tmp_path / "cifar-10-python.tar.gz", parts)
    else:
        rows = np.concatenate([labels[:, None].astype(np.uint8), flat], axis=1)
        parts = {f"data_batch_{i + 1}.bin": rows[3 * i : 3 * i + 3].tobytes() for i in range(2)}
        path = archive(tmp_path / "cifar-10-binary.tar.gz", parts | {"test_batch.bin": rows[:2].tobytes()})
    return path, images, labels


def test_formats(data_set: tuple[Path, np.ndarray, np.ndarray]) -> None:
    path, images, labels = data_set
    train, test = load_data(path, "train"), load_data(path, "test")
    assert (len(train), len(test), train.classes, train.size) == (6, 2, 3, 32)
    batch, numbers = train.batch(torch.tensor([4, 1]), CPU)
    np.testing.assert_array_equal(batch.numpy(), images[[4, 1]].transpose(0, 3, 1, 2))
    assert numbers.tolist() == labels[[4, 1]].tolist()


def test_folder_of_images(tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    for split in ("train", "val"):
        for label, name in enumerate(["ant", "bee"]):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                flat = np.full((40, 60, 3), 40 * (2 * label + i), np.uint8)
                image_module.fromarray(flat).save(folder / f"{i}.png")
    data = load_data(tmp_path, "test", size=16)
    batch, labels = data.batch(torch.tensor([3, 0]), CPU)
    assert batch.shape == (2, 3, 16, 16)
    assert labels.tolist() == [1, 0]
    assert batch[0].unique().tolist() == [120]
    assert batch[1].unique().tolist() == [0]


def folders(path: Path, splits: dict[str, str]) -> None:
    image_module = pytest.importorskip("PIL.Image")
    for split, classes in splits.items():
        for name in classes:
            (path / split / name).mkdir(parents=True)
            image_module.fromarray(np.full((8, 8, 3), ord(name), np.uint8)).save(path / split / name / "0.png")


@pytest.mark.parametrize("lacking", ["a", "b", "ac", "bc", "abd"])
def test_both_parts_have_the_classes_of_training(lacking: str, tmp_path: Path) -> None:
    folders(tmp_path, {"train": "abcd", "val": "".join(sorted(set("abcd") - set(lacking)))})
    for split in ("train", "test"):
        data = load_data(tmp_path, split, size=8)
        assert data.names == ("a", "b", "c", "d")
        batch, labels = data.batch(torch.arange(len(data)), CPU)
        assert ["abcd".index(chr(int(image.max()))) for image in batch] == labels.tolist()


def test_classes_that_training_lacks_are_named(tmp_path: Path) -> None:
    folders(tmp_path, {"train": "ab", "test": "abz"})
    assert len(load_data(tmp_path, "train", size=8)) == 2
    with pytest.raises(CompressError, match=r"training must have the class 'z', which '.*test' has a folder of"):
        load_data(tmp_path, "test", size=8)
    with pytest.raises(CompressError, match="the list of classes must have the class 'b'"):
        load_data(tmp_path, "train", size=8, classes=["a", "z"])
    given = load_data(tmp_path, "test", size=8, classes=["z", "b", "a", "unseen"])
    assert dict(zip([path.parent.name for path in given.images], given.labels.tolist(), strict=True)) == {
        "a": 2,
        "b": 1,
        "z": 0,
    }


@pytest.mark.parametrize("suffix", OTHER_IMAGE_SUFFIXES)
def test_images_of_other_kinds_are_named(suffix: str, tmp_path: Path) -> None:
    folders(tmp_path, {"train": "ab"})
    (tmp_path / "train" / "a" / "notes.txt").touch()
    (tmp_path / "train" / "a" / f".hidden{suffix}").touch()
    assert len(load_data(tmp_path, "train", size=8)) == 2
    (tmp_path / "train" / "b" / f"1{suffix.upper()}").touch()
    message = rf"image '.*1\{suffix.upper()}' must be one of .png, .jpg, .jpeg, .webp, .bmp: convert it, or take it out"
    with pytest.raises(CompressError, match=message):
        load_data(tmp_path, "train", size=8)


def test_a_class_without_an_image_is_named(tmp_path: Path) -> None:
    folders(tmp_path, {"train": "abc"})
    (tmp_path / "train" / "b" / "0.png").rename(tmp_path / "train" / "b" / ".0.png")
    message = "class '.*train/b' must have at least one image of .png, .jpg, .jpeg, .webp, .bmp, not 0"
    with pytest.raises(CompressError, match=message):
        load_data(tmp_path, "train", size=8)


def test_no_image_is_left_out_for_where_it_lies_or_what_it_is_called(tmp_path: Path) -> None:
    folders(tmp_path, {"train": "ab"})
    train = tmp_path / "train"
    image = (train / "a" / "0.png").read_bytes()
    for name in ("._0.png", "notes", "Makefile"):  # those of file managers, and what is no image
        (train / "a" / name).write_bytes(b"no image")
    assert len(load_data(tmp_path, "train", size=8)) == 2
    (train / "a" / "n01").write_bytes(image)
    with pytest.raises(
        CompressError, match=r"image '.*train/a/n01' must be one of .png, .*: convert it, or take it out"
    ):
        load_data(tmp_path, "train", size=8)
    (train / "a" / "n01").unlink()
    (train / "a" / "more").mkdir()
    with pytest.raises(CompressError, match=r"class '.*train/a' must hold its images, not a folder 'more': move them"):
        load_data(tmp_path, "train", size=8)
    (train / "a" / "more").rmdir()
    (train / "7.png").write_bytes(image)
    with pytest.raises(CompressError, match=r"image '.*train/7\.png' must be in the folder of its class, not beside"):
        load_data(tmp_path, "train", size=8)


def test_a_test_part_alone_has_no_classes(tmp_path: Path) -> None:
    folders(tmp_path, {"test": "ab"})
    with pytest.raises(CompressError, match="must hold a directory train, whose folders are the classes, or a list"):
        load_data(tmp_path, "test", size=8)
    assert load_data(tmp_path, "test", size=8, classes=["b", "a"]).labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "not none"), ("a\nb\na\n", "not 'a' twice"), (None, "cannot read classes")],
)
def test_lists_of_classes(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CompressError, match=message):
        read_classes(path)
    path.write_text("sheep\n\n dog \n")
    assert read_classes(path) == ("sheep", "dog")


@pytest.mark.parametrize("layout", ["last", "first", "grey", "grey last", "grey first"])
def test_layouts_of_npz(layout: str, tmp_path: Path) -> None:
    images = pixels(3, 6)
    given = {
        "last": images,
        "first": images.transpose(0, 3, 1, 2),
        "grey": images[..., 0],
        "grey last": images[..., :1],
        "grey first": images[:, None, :, :, 0],
    }[layout]
    np.savez(tmp_path / "x.npz", train_images=given, train_labels=np.arange(3))
    data = load_data(tmp_path / "x.npz", "train")
    expected = images.transpose(0, 3, 1, 2)[:, : data.channels]
    assert data.channels == (1 if "grey" in layout else 3)
    np.testing.assert_array_equal(data.images, expected)
    assert data.normalise(torch.from_numpy(expected)).shape == expected.shape
    colour = load_data(tmp_path / "x.npz", "train", channels=3)
    assert colour.images.shape == (3, 3, 6, 6)
    if "grey" not in layout:
        with pytest.raises(
            CompressError, match=r"the network reads grey images \(1 channel\), and .* has colour images"
        ):
            load_data(tmp_path / "x.npz", "train", channels=1)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pixels(2).astype(np.float32), "train_images of .* must be uint8, 0..255, not float32"),
        (pixels(2)[:, 0, 0, 0], r"must be \[n, rows, columns, 3\], .*, not \[2\]"),
    ],
)
def test_faults_of_npz_in_the_users_terms(images: np.ndarray, message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", train_images=images, train_labels=np.zeros(2, int))
    with pytest.raises(CompressError, match=message):
        load_data(tmp_path / "x.npz", "train")


def test_only_images_of_a_directory_are_resized(tmp_path: Path, refused: Any) -> None:
    path = tmp_path / "x.npz"
    arrays = {f"{split}_images": np.zeros((4, 6, 8), np.uint8) for split in ("train", "test")}
    np.savez(path, **arrays, train_labels=np.arange(4), test_labels=np.arange(4))
    assert load_data(path, "train", size=(6, 8)).shape == load_data(path, "train").shape == (6, 8)
    for size in (6, 8, (8, 6), 224):
        with pytest.raises(
            CompressError, match=r"size must be 6 x 8 as of the images of .*: only those of a directory"
        ):
            load_data(path, "train", size=size)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    done = msvq.calibrate(network, torch.randn(4, 1, 6, 8), Recipe("int8"), progress=False)
    done.write(tmp_path / "net.msvq")
    command = ["evaluate", str(tmp_path / "net.msvq"), "--data", str(path), "--mean", "0", "--std", "1", "--quiet"]
    assert compress_main([*command, "--size", "6", "8"]) == 0
    for more, message in (
        (["--size", "8"], "size must be 6 x 8 as of the images of"),
        (["--interpolation", "nearest"], "--interpolation is for images of a directory, and --data is none"),
        (["--resize-crop", "0.5"], "--resize-crop is for images of a directory, and --data is none"),
    ):
        assert message in refused(compress_main, [*command, *more])


def test_preprocessing_is_the_datas_own(tmp_path: Path) -> None:
    how = Preprocessing((127 / 255,) * 3, (128 / 255,) * 3)
    data = ImageData(pixels(2).transpose(0, 3, 1, 2).copy(), np.zeros(2, np.int64), 32, preprocessing=how)
    values = data.normalise(torch.tensor([0, 127, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)).flatten()
    torch.testing.assert_close(values, torch.tensor([-127 / 128, 0.0, 1.0]))
    grey = data.normalise(torch.full((1, 1, 1, 1), 255, dtype=torch.uint8))
    torch.testing.assert_close(grey.flatten(), torch.tensor([1.0]))
    assert Preprocessing.of(how.to_dict()) == how


def test_colours_are_in_the_networks_order() -> None:
    how = Preprocessing((0.0, 0.2, 0.4), (1.0, 1.0, 0.5), colours="bgr")
    data = ImageData(pixels(2).transpose(0, 3, 1, 2).copy(), np.zeros(2, np.int64), 32, preprocessing=how)
    values = data.normalise(torch.tensor([255, 102, 51], dtype=torch.uint8).reshape(1, 3, 1, 1)).flatten()
    torch.testing.assert_close(values, torch.tensor([0.2, 0.2, 1.2]))
    grey = data.normalise(torch.full((1, 1, 1, 1), 255, dtype=torch.uint8))
    torch.testing.assert_close(grey.flatten(), torch.tensor([0.8 / (2.5 / 3)]))
    assert how.to_dict()["colours"] == "bgr"
    assert Preprocessing.of(how.to_dict()) == how
    # Files that say nothing of it, as all before there were others, are RGB.
    assert "colours" not in Preprocessing().to_dict()
    assert Preprocessing.of({}) == Preprocessing()
    assert Preprocessing().colours == "rgb"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], r"preprocessing must be an object, not \[\]"),
        ({"colors": "bgr"}, "preprocessing must have no fields but mean, .*, colours, not 'colors'"),
        ({"colours": "grb"}, "colours must be one of rgb, bgr, not 'grb'"),
        ({"colours": ["bgr"]}, r"colours must be text, not \['bgr'\]"),
        ({"mean": 0.5}, "mean must be a list of numbers, not 0.5"),
        ({"std": ["1"]}, r"std must be a list of numbers, not \['1'\]"),
        ({"crop": "1"}, "crop must be a number, not '1'"),
        ({"crop": True}, "crop must be a number, not True"),
        ({"mean": [True, 0.5, 0.5]}, r"mean must be a list of numbers, not \[True, 0.5, 0.5\]"),
        ({"std": [10**400]}, r"std must be a list of numbers, not \[10+"),
        ({"interpolation": "x" * 99}, "interpolation must be one of .*, not 'x{99}'"),
    ],
)
def test_a_file_that_says_something_else_of_its_images(value: object, message: str) -> None:
    with pytest.raises(CompressError, match=f"^{message}$"):
        Preprocessing.of(value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": (0.5, 0.5)}, "mean must be 1 or 3 numbers"),
        ({"std": (0.0,)}, "std must be 1 or 3 numbers, finite and positive"),
        ({"interpolation": "cubic"}, "interpolation must be one of bilinear, bicubic, .*, not 'cubic'"),
        ({"crop": 1.5}, "crop must be above 0 and at most 1, not 1.5"),
        ({"colours": "grb"}, "colours must be one of rgb, bgr, not 'grb'"),
        ({"mean": 0.5}, "mean must be numbers, not 0.5"),
        ({"std": ("1",)}, "std must be numbers, not "),
        ({"crop": "1"}, "crop must be a number, not '1'"),
    ],
)
def test_preprocessing_out_of_range(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(CompressError, match=message):
        Preprocessing(**fields)


@pytest.mark.parametrize("kind", [np.array, torch.tensor, lambda values: tuple(map(np.float32, values)), list])
def test_numbers_of_preprocessing_are_those_of_a_file(kind: Any) -> None:
    """JSON has no numbers of numpy: training ended with it."""
    own = Preprocessing(mean=kind([0.5, 0.25, 0.75]), std=kind([0.5]), crop=np.float32(0.5))
    assert own == Preprocessing(mean=(0.5, 0.25, 0.75), std=(0.5,), crop=0.5)
    assert json.loads(json.dumps(own.to_dict()))["mean"] == [0.5, 0.25, 0.75]


@pytest.mark.parametrize("images", [np.zeros((2, 3, 4, 4), np.float32), np.zeros((2, 4, 4), np.uint8)])
def test_images_in_memory_are_bytes(images: Any) -> None:
    """Floats of 0..1 would be divided by 255."""
    with pytest.raises(CompressError, match=r"images must be uint8 \[n, C, rows, columns\], 0..255, not "):
        ImageData(images, np.zeros(2, np.int64), 4)


def test_mosaics(tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    images = pixels(1000)
    mosaic = images.reshape(25, 40, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(800, 1280, 3)
    for split in ("train", "test"):
        image_module.fromarray(mosaic).save(tmp_path / f"{split}_00.webp", lossless=True)
    labels = np.arange(1000) % 10
    np.savez(tmp_path / "labels.npz", train=labels, test=labels)
    assert main([str(tmp_path), str(tmp_path / "out.npz")]) == 0
    data = load_data(tmp_path / "out.npz", "train")
    batch, found = data.batch(torch.tensor([0, 999, 41]), CPU)
    np.testing.assert_array_equal(batch.numpy(), images[[0, 999, 41]].transpose(0, 3, 1, 2))
    assert found.tolist() == [0, 9, 1]
    np.savez(tmp_path / "labels.npz", train=labels, test=labels[:500])
    with pytest.raises(CompressError, match=r"test must have 0\.5 mosaics, not 1"):
        mosaics(tmp_path, progress=False)


@pytest.mark.parametrize(
    ("content", "message"), [(b"text", "must be a picture"), (b"\x89PNG\r\n\x1a\n" + bytes(30), "a picture")]
)
def test_a_damaged_image_is_named(
    tmp_path: Path, content: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("PIL")
    (folder := tmp_path / "train" / "cat").mkdir(parents=True)
    (folder / "1.png").write_bytes(content)
    with pytest.raises(CompressError, match=rf"image '.*1\.png': .*{message}"):
        load_data(tmp_path, "train", size=8).batch(torch.tensor([0]), CPU)
    np.savez(tmp_path / "labels.npz", train=np.zeros(1000, int), test=np.zeros(1000, int))
    (tmp_path / "train_00.webp").write_bytes(content)
    assert main([str(tmp_path), str(tmp_path / "out.npz")]) == 2
    error = capsys.readouterr().err
    assert "mosaic 'train_00.webp': " in error
    assert message in error
    assert not (tmp_path / "out.npz").exists()


def test_converter_reports_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), str(tmp_path / "out.npz")]) == 2
    assert "must hold labels.npz and mosaics" in capsys.readouterr().err


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run",)


def test_an_archive_runs_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = archive(tmp_path / "evil.tar.gz", {"test_batch": pickle.dumps(Evil())})
    with pytest.raises(CompressError, match=r"builtins\.print is neither an array nor text"):
        load_data(path, "test")
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize("columns_first", [False, True])
def test_arrays_of_an_archive(protocol: int, columns_first: bool, tmp_path: Path) -> None:
    """Of any kind of numbers and order of bytes, as older and newer interpreters have pickled them."""
    flat = np.random.default_rng(0).integers(0, 256, (3, 3072)).astype(np.uint8)
    content = {b"data": np.asarray(flat, order="F" if columns_first else "C"), b"labels": np.array([2, 0, 1], ">i4")}
    path = archive(tmp_path / "x.tar.gz", {"test_batch": pickle.dumps(content, protocol)})
    data = load_data(path, "test")
    np.testing.assert_array_equal(data.images, flat.reshape(3, 3, 32, 32))
    assert data.labels.tolist() == [2, 0, 1]


def test_a_dtype_of_an_archive_has_no_flags(tmp_path: Path) -> None:
    """numpy would take the bytes for addresses of objects, and drop them."""
    batch = pickle.dumps({b"data": pixels(2).reshape(2, -1), b"labels": [0, 1]}, protocol=3)
    plain = b"J\xff\xff\xff\xff" * 2 + b"K\x00t"
    assert batch.count(plain) == 1
    flagged = batch.replace(plain, plain[:-2] + b"\x3ft")
    path = archive(tmp_path / "x.tar.gz", {"test_batch": flagged})
    np.testing.assert_array_equal(load_data(path, "test").images, pixels(2).reshape(2, 3, 32, 32))
    assert np.dtype("u1").flags == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({b"X\x02\x00\x00\x00u1": b"X\x02\x00\x00\x00O8"}, "'O8' is no kind of numbers"),
        ({b"X\x01\x00\x00\x00|": b"X\x01\x00\x00\x00?"}, r"'\?' is no order of bytes"),
        ({b"cnumpy\ndtype": b"cnumpy\nndarray"}, "."),
    ],
)
def test_arrays_of_something_else(changes: dict[bytes, bytes], message: str, tmp_path: Path) -> None:
    batch = pickle.dumps({b"data": pixels(2).reshape(2, -1), b"labels": [0, 1]}, protocol=3)
    for old, new in changes.items():
        assert batch.count(old) == 1
        batch = batch.replace(old, new)
    with pytest.raises(CompressError, match=rf"cannot read data '.*': .*{message}"):
        load_data(archive(tmp_path / "x.tar.gz", {"test_batch": batch}), "test")


def test_bad_data(tmp_path: Path) -> None:
    with pytest.raises(CompressError, match="split must be one of train, test, not 'all'"):
        load_data(tmp_path, "all")
    with pytest.raises(CompressError, match=r"data must be a directory, a \.npz or a \.tar\.gz, not "):
        load_data(tmp_path / "x.zip", "train")
    with pytest.raises(CompressError, match="must hold a directory test or val"):
        load_data(tmp_path, "test")
    with pytest.raises(CompressError, match="cannot read data"):
        load_data(tmp_path / "missing.npz", "train")
    (tmp_path / "broken.tar.gz").write_bytes(b"no archive")
    with pytest.raises(CompressError, match="cannot read data"):
        load_data(tmp_path / "broken.tar.gz", "train")
    path = archive(tmp_path / "empty.tar.gz", {"readme": b""})
    with pytest.raises(CompressError, match="must hold data_batch files"):
        load_data(path, "train")
    np.savez(tmp_path / "x.npz", train_images=pixels(2)[..., :2], train_labels=np.zeros(2, int))
    with pytest.raises(
        CompressError, match=r"train_images of .* must be \[n, rows, columns, 3\], .* not \[2, 32, 32, 2\]"
    ):
        load_data(tmp_path / "x.npz", "train")
    np.savez(tmp_path / "x.npz", train_images=pixels(2), train_labels=np.array([0, -1]))
    with pytest.raises(
        CompressError, match=r"train_labels of .* must be integers from 0, one for each image or pixel, not int64"
    ):
        load_data(tmp_path / "x.npz", "train")
    with pytest.raises(CompressError, match="data must have a label for each image, not 1 for 2"):
        ImageData(pixels(2), np.zeros(1, np.int64), 32)
    with pytest.raises(CompressError, match="data must have at least one image, not 0"):
        ImageData(pixels(0), np.zeros(0, np.int64), 32)


def test_archives_that_are_larger_than_cifar(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tar.gz"
    large = tarfile.TarInfo("cifar/readme")
    large.size = 2 << 30
    path.write_bytes(gzip.compress(large.tobuf()) + 2048 * gzip.compress(bytes(1 << 20)))
    with pytest.raises(CompressError, match="an archive of CIFAR-10 must hold at most 268435456 bytes, unpacked"):
        load_data(path, "train")
    large = tarfile.TarInfo("cifar/data_batch_1")
    large.size = 100_000_000
    path.write_bytes(gzip.compress(large.tobuf()))
    with pytest.raises(CompressError, match=r"'cifar/data_batch_1' in .* must have at most 67108864 bytes"):
        load_data(path, "train")
    np.savez_compressed(tmp_path / "bomb.npz", train_images=np.zeros((1 << 17, 32, 32, 1), np.uint8))
    with pytest.raises(CompressError, match=r"cannot read data .*: must hold at most 67108864 bytes, unpacked"):
        load_data(tmp_path / "bomb.npz", "train")


@pytest.mark.parametrize("kind", ["tar.gz", "pickle", "npz"])
def test_damaged_archives(kind: str, tmp_path: Path) -> None:
    """Bytes changed, left out and added anywhere: one line of this package's own error, or the images."""
    rng = random.Random(kind)
    batch = pickle.dumps({b"data": np.zeros((3, 3072), np.uint8), b"labels": [0, 1, 2]})
    npz = io.BytesIO()
    np.savez(npz, train_images=pixels(2), train_labels=np.array([0, 1]))
    whole = {
        "tar.gz": lambda: archive(tmp_path / "whole.tar.gz", {"data_batch_1": batch}).read_bytes(),
        "pickle": lambda: batch,
        "npz": npz.getvalue,
    }[kind]()
    errors = set()
    for _ in range(300):
        start = rng.randrange(min(len(whole), 300))
        damaged = whole[:start] + rng.randbytes(rng.randrange(4)) + whole[start + rng.randrange(4) :]
        if kind == "pickle":
            path = archive(tmp_path / "x.tar.gz", {"data_batch_1": damaged})
        else:
            path = tmp_path / f"x.{kind}"
            path.write_bytes(damaged)
        with suppress(CompressError):
            assert load_data(path, "train").size == 32
            continue
        with pytest.raises(CompressError) as raised:
            load_data(path, "train")
        errors.add(str(raised.value))
    assert len(errors) > 5
    assert not any("\n" in error for error in errors)


@pytest.mark.parametrize(("width", "height"), [(32, 32), (500, 40), (30, 400)])
def test_crops_are_inside_and_as_described(width: int, height: int) -> None:
    draws = torch.rand(2000, 4, generator=torch.Generator().manual_seed(0))
    left, top, right, bottom = crop_boxes(draws, 0.08, width, height).double().T
    assert min(left.min(), top.min()) >= 0
    assert right.max() <= width + 1e-3
    assert bottom.max() <= height + 1e-3
    columns, rows = right - left, bottom - top
    share = columns * rows / (width * height)
    assert share.max() <= 1 + 1e-5
    # Sides that end at the image's make a crop smaller, never larger.
    whole = (columns < width - 1e-3) & (rows < height - 1e-3)
    assert share[whole].min() > 0.0799
    shape = (columns / rows)[whole]
    assert shape.min() > 0.7499
    assert shape.max() < 1.3334
    if width == height:
        assert share.mean() == pytest.approx(0.54 - 0.02, abs=0.02)
        assert shape.log().mean() == pytest.approx(0, abs=0.02)


def test_crops_of_arrays_and_files_are_the_same_places(tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    rows, columns = np.mgrid[:48, :48]
    image = np.stack([5 * rows, 5 * columns, rows + columns], axis=-1).astype(np.uint8)
    folder = tmp_path / "train" / "ant"
    folder.mkdir(parents=True)
    image_module.fromarray(image).save(folder / "0.png")
    files = load_data(tmp_path, "train", size=48)
    arrays = ImageData(image[None].transpose(0, 3, 1, 2), np.zeros(1, np.int64), 48)
    for seed in range(5):
        draws = torch.rand(1, 4, generator=torch.Generator().manual_seed(seed))
        batches = [data.batch(torch.tensor([0]), CPU, draws=draws, area=0.08)[0].int() for data in (files, arrays)]
        assert batches[0].shape == batches[1].shape == (1, 3, 48, 48)
        assert (batches[0] - batches[1]).abs().max() <= 3
        left, top, right, bottom = crop_boxes(draws, 0.08, 48, 48)[0].tolist()
        middle = batches[1][0, :2, 23:25, 23:25].float().mean((1, 2)) / 5
        assert middle.tolist() == pytest.approx([(top + bottom - 1) / 2, (left + right - 1) / 2], abs=0.3)


def test_the_whole_image_is_a_crop_too() -> None:
    data = ImageData(pixels(3).transpose(0, 3, 1, 2), np.zeros(3, np.int64), 32)
    draws = torch.full((3, 4), 0.5)
    same = data.batch(torch.arange(3), CPU, draws=draws, area=1.0)[0]
    assert torch.equal(same, torch.from_numpy(data.images))


def test_images_go_to_the_device_once() -> None:
    data = ImageData(np.zeros((4, 3, 2, 2), np.uint8), np.arange(4), 2)
    # A tensor there is on "cpu": the two are not equal, as "cuda" and "cuda:0" are not.
    device = torch.device("cpu:0")
    assert torch.zeros(1).device != device
    data.batch(torch.tensor([0]), device)
    there = data._on_device
    data.batch(torch.tensor([1]), device)
    assert data._on_device is there
