"""What the experiments share: their data, their floating-point networks, and how results are written."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import platform
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from hw.command_line import write_text
from sw.command_line import exit_status
from sw.compress.methods import CompressError
from sw.format.picture import PictureError, read_picture
from sw.format.strict_json import json_text, parse_json

if TYPE_CHECKING:
    from PIL.Image import Image

    from sw.compress.training.data import ImageData

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
WEIGHTS = ROOT / "build" / "experiments"

#: What can be done where a run's file is of other settings, beside removing it.
OTHER_RUNS = ", or name another directory by --runs"

#: Environment variable with the path of the images, as :func:`sw.compress.training.data.load_data` takes it. Which data
#: set a network is for is in :mod:`experiments.models`.
DATA_VARIABLE = "CIFAR10"


def at_least_one(text: str) -> int:
    """The type of an option that is a number of things: at least one."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, not {text!r}")
    return number


def folder(text: str) -> Path:
    """The type of an option that is a directory, which need not be there."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"must be a directory, not the file {text!r}")
    return path


def add_output_option(parser: argparse.ArgumentParser) -> None:
    """``--output``."""
    parser.add_argument("--output", type=folder, default=RESULTS, help="directory of the results (%(default)s)")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that every experiment has."""

    parser.add_argument(
        "--data", default=os.environ.get(DATA_VARIABLE), help=f"CIFAR-10, or Tiny-ImageNet (${DATA_VARIABLE})"
    )
    parser.add_argument("--device", help="cuda if PyTorch sees a GPU, or cpu")
    parser.add_argument(
        "--images", type=at_least_one, help="use only that many images of each part, to try the command"
    )
    add_output_option(parser)
    parser.add_argument("--eager", action="store_true", help="on a GPU, do not replay steps as CUDA graphs")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """``--device``, and ``--threads`` of a CPU."""
    parser.add_argument("--device", help="cuda if PyTorch sees a GPU, or cpu")
    parser.add_argument(
        "--threads", type=at_least_one, default=2, help="of torch on a CPU; results depend on it (%(default)s)"
    )


def run_late(parser: argparse.ArgumentParser, arguments: Sequence[str] | None, module: str) -> int:
    """Read the options, then run the function ``run`` of a module with them. Returns the exit status.

    The module is imported only then, with PyTorch, which takes seconds: ``--help`` and bad options do not wait for it.
    ``run`` finds the device chosen (:func:`chosen_device`). A report (``--json``) that cannot be written is refused
    here, not after the work.
    """
    options = parser.parse_args(arguments)
    report: Path | None = getattr(options, "json", None)
    if report is not None and (report.is_dir() or not report.parent.is_dir()):
        parser.error(f"argument --json: must be a file in a directory that is there, not {str(report)!r}")

    def run() -> int:
        options.device = chosen_device(options.device)
        status: int = importlib.import_module(module).run(options)
        return status

    return exit_status(parser.prog, run)


def chosen_device(device: str | None) -> str:
    """What ``--device`` says, or else ``cuda`` where PyTorch sees a GPU, and ``cpu``.

    Raises
    ------
    sw.compress.kmeans_gpu.KMeansError
        PyTorch does not see it.
    """
    import torch

    from sw.compress.kmeans_gpu import device_kind

    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    device_kind(chosen)
    return chosen


def data(options: argparse.Namespace, network: str = "") -> tuple[ImageData, ImageData]:
    """The training and test images, of the size that the network takes.

    Raises
    ------
    CompressError
        No path was given.
    """
    from experiments.images import resized
    from experiments.models import image_size
    from sw.compress.training.data import ImageData, load_data

    if not options.data:
        raise CompressError(f"--data must name the images' archive or .npz; ${DATA_VARIABLE} is not set either")
    parts = [load_data(options.data, split) for split in ("train", "test")]
    if options.images:
        parts = [ImageData(part.images[: options.images], part.labels[: options.images], part.size) for part in parts]
    size = image_size(network)
    if size is not None:
        parts = [resized(part, size) for part in parts]
    return parts[0], parts[1]


def machine(device: str) -> dict[str, str]:
    """The device and the versions, for the report."""
    import numpy as np
    import PIL
    import torch

    cuda = device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"CPU ({platform.machine()})",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        # Its versions round resized pixels in their own ways.
        "pillow": PIL.__version__,
    }


def weights_file(network: str, scheme: str | None = None, nm: str = "4:16") -> Path:
    """Where ``train_float`` leaves the weights of a network: dense, or trained N:M sparse by a scheme."""
    parts = [network, scheme, None if nm == "4:16" else nm.replace(":", "-")] if scheme else [network]
    return WEIGHTS / f"{'-'.join(filter(None, parts))}.pt"


def existing_weights(path: Path, network: str, scheme: str | None = None, nm: str = "4:16") -> Path:
    """The weights' file, before the work that starts from it.

    Raises
    ------
    CompressError
        It is not there; the message has the command that writes it.
    """
    if not path.is_file():
        sparse = f" --start FILE --sparse {scheme} --nm {nm}" if scheme else ""
        raise CompressError(
            f"weights {path} must exist: python -m experiments.train_float {network}{sparse} makes them"
        )
    return path


def file_stem(case: str) -> str:
    """What the names of a case's files begin with: its name, with hyphens for all but letters and digits."""
    return "".join(letter if letter.isalnum() else "-" for letter in case)


def read_run(path: Path, wanted: Mapping[str, Any], defaults: Mapping[str, Any], advice: str = "") -> dict[str, Any]:
    """The file of a run that was made before, if it is one with these settings.

    Parameters
    ----------
    path
        Of the file.
    wanted
        Settings, and what they must be.
    defaults
        What they were in files that do not say them.
    advice
        What else than to remove the file can be done.

    Raises
    ------
    CompressError
        It is of other settings, or damaged.
    """
    found = run_file(path, advice=advice)
    config = found.get("config")
    there = {**defaults, **found, **(config if isinstance(config, dict) else {})}
    for name, value in wanted.items():
        if there.get(name) != value:
            raise CompressError(f"{path} is of a run with {name} {there.get(name)}, not {value}: remove it{advice}")
    return found


def run_file(path: Path, *names: str, advice: str = "") -> dict[str, Any]:
    """The JSON of a run, whatever its settings are, with these names in it. ``advice``: :func:`read_run`.

    Raises
    ------
    CompressError
        It is another file, or damaged.
    """
    try:
        found = parse_json(path.read_bytes())
    except ValueError as error:
        raise CompressError(f"{path} is no run's file: {error}: remove it{advice}") from None
    if not isinstance(found, dict) or any(name not in found for name in names):
        raise CompressError(f"{path} is no run's file: it must have {', '.join(names) or 'names'}: remove it{advice}")
    return found


def picture(file: str | Path | BinaryIO, mode: str | None = "RGB", *, name: str = "") -> Image:
    """A picture of a data set, decoded (:func:`sw.format.picture.read_picture`); ``name`` is that of an open file.

    Raises
    ------
    CompressError
        It is none, or damaged.
    """
    try:
        return read_picture(file, mode)
    except PictureError as error:
        raise CompressError(f"{name or file}: {error}") from None


@contextlib.contextmanager
def opened_tar(path: Path, wanted: str) -> Iterator[tarfile.TarFile]:
    """A data set's tar file, open; whatever is wrong with it is said behind ``wanted``.

    Raises
    ------
    CompressError
        There is none, or it is damaged.
    """
    try:
        with tarfile.open(path) as archive:
            yield archive
    except CompressError:
        raise
    except Exception as error:  # tarfile lets errors of other kinds out of damaged ones, zlib's and lzma's for instance
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CompressError(f"{wanted}, not {str(path)!r}: {reason}") from None


def write_report(path: Path, report: dict[str, Any], headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write ``path`` (.json) and a table beside it (.md)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json_text(report))
    lines = ["| " + " | ".join(headings) + " |", "|" + " --- |" * len(headings)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    note = f"\nFrom `{path.name}`, made by `python -m experiments.{report['experiment']}`. {report['note']}\n"
    write_text(path.with_suffix(".md"), "\n".join(lines) + "\n" + note)


def part_note(runs: Sequence[Mapping[str, Any]], option: str) -> str:
    """For a note: that runs had a part of the data alone, by this option; nothing of runs that had all of it."""
    counts = sorted({run[option] for run in runs if run.get(option)})
    return f" **A part of the data alone: --{option} {', '.join(map(str, counts))}.**" if counts else ""


def spread(values: Sequence[float], decimals: int = 2) -> str:
    """``mean ± standard deviation`` of some figures; the mean alone of one."""
    import numpy as np

    if len(values) < 2:
        return f"{values[0]:.{decimals}f}"
    return f"{np.mean(values):.{decimals}f} ± {np.std(values, ddof=1):.{decimals}f}"
