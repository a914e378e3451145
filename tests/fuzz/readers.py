"""Every reader of files: sound files to damage, how it is called, and the errors that are its own."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import pickle
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from hw.config import preset

__all__ = ["READERS", "Reader"]


@dataclass(frozen=True)
class Reader:
    """A reader of files."""

    #: Of the file's name.
    suffix: str
    #: Sound files, as bytes.
    seeds: Callable[[], Sequence[bytes]]
    #: Reads a path.
    read: Callable[[Path], Any]
    #: Its own errors.
    errors: Callable[[], tuple[type[Exception], ...]]
    #: The file begins with a magic, a version and the header's length, and each part has a checksum.
    header: bool = False
    #: A package of an extra, without which there is no such reader.
    needs: str = ""

    @property
    def missing(self) -> bool:
        """Its package is not installed."""
        return bool(self.needs) and importlib.util.find_spec(self.needs) is None


def _written(write: Callable[[Path], Any], suffix: str = "") -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        write(path)
        return path.read_bytes()


def _layer() -> Any:
    from sw.format.example import random_layer

    return random_layer(np.random.default_rng(0), "int8", (9, 3, 3, 3), requantised=True, name="layer", padding=(1, 1))


def _containers() -> list[bytes]:
    from sw.format.container import write_container
    from sw.format.example import random_layer

    rng = np.random.default_rng(0)
    layers = [random_layer(rng, "msvq", (8, 3, 3, 3), d=8, k=4, n=4, m=8, requantised=True), _layer()]
    return [_written(lambda path: write_container(path, layers, metadata={"a": [1, {"b": None}]}))]


def _networks() -> list[bytes]:
    from sw.network.file import write_network
    from tests.sw.networks import every_operation

    network = every_operation(np.random.default_rng(0), preset("ews-msvq-tiny"))
    return [_written(lambda path: write_network(path, network))]


def _programs() -> list[bytes]:
    from sw.compiler.compile import compile_layer
    from sw.program import write_program

    program = compile_layer(_layer(), (3, 5, 4), preset("ews-tiny"))
    return [_written(lambda path: write_program(path, program))]


def _steps() -> list[bytes]:
    from sw.compiler.steps import compile_steps
    from sw.program.steps import write_stepped_program
    from tests.sw.steps import small_transformer

    config = preset("ews-msvq-tiny")
    steps = compile_steps(small_transformer(config)[0], config)
    return [_written(lambda path: write_stepped_program(path, steps))]


def _rules() -> list[bytes]:
    recipe = {"method": "mvq", "k": 16, "d": 16, "n": 4, "m": 16}
    return [json.dumps({"rules": [{"layer": "a", "recipe": recipe}, {"pattern": "b*", "recipe": recipe}]}).encode()]


def _plans() -> list[bytes]:
    import torch

    from sw.compress.methods import Recipe
    from sw.compress.network import module_sources
    from sw.compress.search import plan_json, search

    sources = module_sources(torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3)))
    plan = search(sources, 1100, candidates=[Recipe("int8"), Recipe("vq", 8, 8)], threads=1, progress=False)
    return [json.dumps(plan_json(plan, network="x", budget=1100), indent=1).encode()]


def _shapes() -> list[bytes]:
    layer = {"name": "layer", "shape": [16, 16, 3, 3], "input": [16, 8, 8]}
    network = [
        {"op": "input", "shape": [3, 8, 8]},
        {"op": "layer", "name": "first", "shape": [16, 3, 3, 3], "padding": 1, "raw": True},
        {"op": "average"},
        {"op": "flatten"},
        {"op": "logits", "name": "last", "kind": "linear", "shape": [10, 16, 1, 1]},
    ]
    return [json.dumps([layer]).encode(), json.dumps(network).encode()]


def _liberty() -> list[bytes]:
    from synth.generic import _text

    return [_text().encode()]


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _images() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (2, 32, 32, 3)).astype(np.uint8), np.arange(2)
    return {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}


def _tar(content: bytes, name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _pickles() -> list[bytes]:
    return [pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1]}, protocol=2)]


def _torch() -> list[bytes]:
    import torch

    state = {"state_dict": {"layer.weight": torch.zeros(4, 4), "layer.bias": torch.zeros(4)}}
    return [
        _written(lambda path: torch.save(state, path)),
        _written(lambda path: torch.save(state, path, _use_new_zipfile_serialization=False)),
    ]


def _module() -> Any:
    from torch import nn

    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()


def _exported() -> list[bytes]:
    import torch

    program = torch.export.export(_module(), (torch.zeros(1, 3, 6, 6),))
    return [_written(lambda path: torch.export.save(program, path), ".pt2")]


def _onnx() -> list[bytes]:
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = {"w": (4, 3, 3, 3), "b": (4,), "v": (5, 4), "c": (5,)}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["0"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["0"], ["1"]),
        helper.make_node("GlobalAveragePool", ["1"], ["2"]),
        helper.make_node("Flatten", ["2"], ["3"]),
        helper.make_node("Gemm", ["3", "v", "c"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        [
            numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
            for name, shape in weights.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    return [model.SerializeToString()]


def _training() -> tuple[Any, Any, Any]:
    from sw.compress.training.data import ImageData
    from sw.compress.training.loop import TrainConfig

    rng = np.random.default_rng(0)
    data = ImageData(rng.integers(0, 256, (8, 3, 8, 8), np.uint8), rng.integers(0, 5, 8), 8)
    return _module(), data, TrainConfig(1, 4, crop=0, threads=1)


def _checkpoints() -> list[bytes]:
    """What an interrupted training leaves."""
    from sw.compress.training.loop import fit

    model, data, config = _training()
    return [_written(lambda path: fit(model, data, config, checkpoint=path, every=1, progress=False), ".pt")]


def _pictures() -> list[bytes]:
    from PIL import Image

    picture = Image.fromarray(_images()["train_images"][0])
    found = []
    for kind in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP"):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        found.append(buffer.getvalue())
    return found


@cache
def _entry() -> Any:
    from sw.program import Input, Tensor

    return Input(Tensor("x", 0, 3, 5, 4, 1, 3, "int8", 0.5))


def _errors(*names: str) -> Callable[[], tuple[type[Exception], ...]]:
    """Exceptions by ``module:name``."""

    def found() -> tuple[type[Exception], ...]:
        from importlib import import_module

        return tuple(getattr(import_module(module), name) for module, name in (x.split(":") for x in names))

    return found


def _call(module: str, name: str, *more: Any) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:
        from importlib import import_module

        return getattr(import_module(module), name)(path, *more)

    return read


def _shapes_of(path: Path) -> Any:
    from sw.perf.shapes import read_workload

    return read_workload(path).network(preset("ews-tiny"))


def _library(path: Path) -> Any:
    from synth.liberty import load

    return load([path])


def _picture(path: Path) -> Any:
    from sw.run import read_images

    return read_images(str(path), _entry(), (0, 0, 0), (1, 1, 1))


def _packed(path: Path) -> Any:
    """What is inside the compression is damaged, not the compression."""
    path.write_bytes(gzip.compress(path.read_bytes(), 1))
    return _call("sw.compress.training.data", "load_data", "train")(path)


def _pickled(path: Path) -> Any:
    path.write_bytes(gzip.compress(_tar(path.read_bytes(), "cifar/data_batch_1"), 1))
    return _call("sw.compress.training.data", "load_data", "train")(path)


def _resumed(path: Path) -> Any:
    """The training is at its end already, so that nothing but the reading is done."""
    from sw.compress.training.loop import fit

    model, data, config = _training()
    return fit(model, data, config, checkpoint=path, progress=False)


def _model(path: Path) -> Any:
    return _call("sw.compress.sources", "load_model")(str(path))  # type: ignore[arg-type]


def _index(path: Path) -> Any:
    """An index of parts, with the part that it names beside it."""
    part = path.with_name("part.npz")
    if not part.exists():
        part.write_bytes(_npz(weight=np.zeros((4, 4), np.float32), bias=np.zeros(4, np.float32)))
    return _call("sw.compress.checkpoints", "read_state_dict")(path)


def _folder_image(path: Path) -> Any:
    """An image of a data set, whose folder is its class."""
    import torch

    from sw.compress.training.data import load_data

    (folder := path.with_name("data") / "train" / "class").mkdir(parents=True, exist_ok=True)
    path.replace(folder / path.name)
    return load_data(folder.parents[1], "train", size=8).batch(torch.tensor([0]), torch.device("cpu"))


def _mosaics(path: Path) -> Any:
    from sw.compress.commands.mosaics import mosaics

    (folder := path.with_name("mosaics")).mkdir(exist_ok=True)
    for split in ("train", "test"):
        (folder / f"{split}_00.webp").write_bytes(path.read_bytes())
    (folder / "labels.npz").write_bytes(_npz(train=np.zeros(1000, np.int64), test=np.zeros(1000, np.int64)))
    return mosaics(folder, progress=False)


def _mosaic() -> list[bytes]:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (1280, 800), "red").save(buffer, "PNG")
    return [buffer.getvalue()]


@cache
def _settings() -> dict[str, Any]:
    import dataclasses

    from sw.compress.training.settings import TrainConfig

    return {"config": dataclasses.asdict(TrainConfig(3, 4)), "sparse": None, "weights": "0123", "images": 9}


_SEEN = {"loss_settings": {"label_smoothing": 0.1}, "batch": [["float32", [2, 3], 0.5, 1.0, 0.0], ["int64", [2], 9]]}


def _job(path: Path) -> Any:
    """What says whose folder of ``--work`` it is."""
    from sw.compress.training.work import claim

    return claim(path, _settings(), False, _SEEN)


def _study(path: Path) -> Any:
    from synth.explore.accuracy import read_study

    return read_study(path.stem, path.parent)


_STUDY = {
    "network": "resnet18",
    "summary": [1],
    "runs": [{"case": "MVQ 4 bits", "accuracy": 61.5, "layers": {"mvq 4:16 k=16 d=16": 3, "int8 1:1 k=1 d=1": 1}}],
}


def _kept(path: Path) -> Any:
    """A cache: a file that is not as it was written is none."""
    from synth.cache import kept

    text = kept(path)
    if text is None:
        raise _NothingKept("nothing")
    if text != _KEPT:
        raise AssertionError("another text")
    return text


class _NothingKept(ValueError):
    """There is nothing in the cache."""


_KEPT = "{}\n" * 9


def _keep() -> list[bytes]:
    from synth.cache import keep

    return [_written(lambda path: keep(path, _KEPT))]


def _archive(kind: str) -> Callable[[], list[bytes]]:
    """The images of a task's data, as a tar file."""

    def make() -> list[bytes]:
        from PIL import Image

        picture = io.BytesIO()
        Image.fromarray(_images()["train_images"][0]).save(picture, "WEBP")
        label = io.BytesIO()
        Image.new("L", (32, 32), 3).save(label, "PNG")
        files = {
            "detection": {
                f"{part}/1.{ending}": content
                for part in ("train2017", "val2017")
                for ending, content in (("webp", picture.getvalue()), ("txt", b"0 0.5 0.5 0.1 0.1\n"))
            },
            "segmentation": {"image/1.webp": picture.getvalue(), "label/1.png": label.getvalue()},
        }[kind]
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return [buffer.getvalue(), gzip.compress(buffer.getvalue())]

    return make


_COMPRESS = ("sw.compress.methods:CompressError",)
_NETWORK = ("sw.network.fields:NetworkError", "sw.format.container:ContainerError", "sw.compiler.graph:CompileError")
_DATA = ("sw.compress.training.data", "load_data", "train")

READERS: dict[str, Reader] = {
    "container": Reader(
        ".msvq", _containers, _call("sw.format.container", "read_container"), _errors(*_NETWORK[1:2]), header=True
    ),
    "network": Reader(".msvq", _networks, _call("sw.network.file", "read_network"), _errors(*_NETWORK), header=True),
    "program": Reader(
        ".prog", _programs, _call("sw.program", "read_program"), _errors("sw.program:ProgramError"), header=True
    ),
    "steps": Reader(
        ".prog",
        _steps,
        _call("sw.program.steps", "read_stepped_program"),
        _errors("sw.program:ProgramError", "sw.network:NetworkError"),
        header=True,
    ),
    "rules": Reader(".json", _rules, _call("sw.compress.rules", "read_rules"), _errors(*_COMPRESS)),
    "plan": Reader(".json", _plans, _call("sw.compress.rules", "read_rules"), _errors(*_COMPRESS)),
    "shapes": Reader(
        ".json",
        _shapes,
        _shapes_of,
        _errors("sw.perf.shapes:ShapesError", "sw.format.layer:LayerError", *_NETWORK),
    ),
    "liberty": Reader(".lib", _liberty, _library, _errors("synth.liberty:LibraryError")),
    "liberty gzip": Reader(
        ".lib.gz", lambda: [gzip.compress(_liberty()[0])], _library, _errors("synth.liberty:LibraryError")
    ),
    "checkpoint npz": Reader(
        ".npz",
        lambda: [_npz(weight=np.zeros((4, 4), np.float32))],
        _call("sw.compress.checkpoints", "read_state_dict"),
        _errors(*_COMPRESS),
    ),
    "checkpoint torch": Reader(".pt", _torch, _call("sw.compress.checkpoints", "read_state_dict"), _errors(*_COMPRESS)),
    "checkpoint resumed": Reader(".pt", _checkpoints, _resumed, _errors(*_COMPRESS)),
    "model pt2": Reader(".pt2", _exported, _model, _errors(*_COMPRESS)),
    "model onnx": Reader(".onnx", _onnx, _model, _errors(*_COMPRESS), needs="onnx2torch"),
    "data npz": Reader(".npz", lambda: [_npz(**_images())], _call(*_DATA), _errors(*_COMPRESS)),
    "cifar gzip": Reader(
        ".tar.gz",
        lambda: [gzip.compress(_tar(_pickles()[0], "cifar/data_batch_1"))],
        _call(*_DATA),
        _errors(*_COMPRESS),
    ),
    "cifar tar": Reader(".tar.gz", lambda: [_tar(_pickles()[0], "cifar/data_batch_1")], _packed, _errors(*_COMPRESS)),
    "cifar pickle": Reader(".tar.gz", _pickles, _pickled, _errors(*_COMPRESS)),
    "npy": Reader(
        ".npy",
        lambda: [_written(lambda path: np.save(path, np.zeros((3, 5, 4), np.int8)), ".npy")],
        _picture,
        _errors("sw.run:RunError"),
    ),
    "picture": Reader(".png", _pictures, _picture, _errors("sw.run:RunError")),
    "checkpoint index": Reader(
        ".index.json",
        lambda: [json.dumps({"weight_map": {"weight": "part.npz", "bias": "part.npz"}}).encode()],
        _index,
        _errors(*_COMPRESS),
    ),
    "data folder": Reader(".png", _pictures, _folder_image, _errors(*_COMPRESS)),
    "mosaics": Reader(".webp", _mosaic, _mosaics, _errors(*_COMPRESS)),
    "classes": Reader(
        ".txt",
        lambda: ["cat\nhäuser\n".encode()],
        _call("sw.compress.training.data", "read_classes"),
        _errors(*_COMPRESS),
    ),
    "work": Reader(".json", lambda: [json.dumps(_settings() | _SEEN).encode()], _job, _errors(*_COMPRESS)),
    "study": Reader(
        ".json", lambda: [json.dumps(_STUDY).encode()], _study, _errors("synth.explore.parts:ExploreError")
    ),
    "cache": Reader(".json", _keep, _kept, lambda: (_NothingKept,)),
    "run": Reader(
        ".json",
        lambda: [json.dumps({"case": "a", "lr": 0.1, "runs": [1]}).encode()],
        _call("experiments.common", "run_file", "case", "lr"),
        _errors(*_COMPRESS),
    ),
    "task detection": Reader(
        ".tar", _archive("detection"), _call("experiments.detection", "load_images"), _errors(*_COMPRESS)
    ),
    "task segmentation": Reader(
        ".tar", _archive("segmentation"), _call("experiments.segmentation", "load_part"), _errors(*_COMPRESS)
    ),
    "photograph": Reader(
        ".jpg",
        lambda: _pictures()[1:2],
        _call("sim.networks.activations", "load_photograph"),
        _errors("sw.format.picture:PictureError"),
    ),
}
