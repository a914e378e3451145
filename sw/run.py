"""``python -m sw.run``: run a program on the golden model or on the simulated hardware, or predict its cycles.

A network in steps runs step by step: its programs on the backend, the host's operations between them here.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sw.command_line import Parser, check_outputs, run_command
from sw.format.envelope import kind_of
from sw.format.output import staged
from sw.format.picture import COLOURS, PictureError, UnknownPictureError, middle_part, read_picture

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.table import Table

    from hw.config import AcceleratorConfig
    from sw.compress.training.preprocessing import Preprocessing
    from sw.perf.timing import LayerTiming
    from sw.program import Input, Program, Tensor
    from sw.program.steps import SteppedProgram

__all__ = ["RunError", "main", "quantise_input", "read_images"]

BACKENDS = ("golden", "rtl", "perf")
#: Logits of this many classes are printed, the largest first.
TOP = 5


class RunError(ValueError):
    """An input that does not fit the program, or a simulation that fails. The message says what is wrong."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns the exit status: 1 where ``--check`` finds a difference; with one line on standard error 2 for bad input
    and 130 for Ctrl-C.
    """
    return run_command(_parser(), arguments, _run)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers with commas between them, not {text!r}") from None


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m sw.run", description=__doc__)
    parser.add_argument("--backend", choices=BACKENDS, default="golden", help="%(default)s")
    parser.add_argument("program", metavar="PROGRAM", help="of the compiler; also a network in steps")
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="*",
        help=".npy of [C, rows, columns] or [images, C, rows, columns], int8 or normalised float; or a picture."
        " One for each input of the program; none for perf",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write the outputs: .npy for one, .npz for several")
    parser.add_argument("--check", action="store_true", help="golden: prove that there are no races; rtl: compare with"
                        " golden")  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="write the table of layers (rtl, perf)")
    parser.add_argument("--trace", metavar="FILE.vcd", help="rtl: record the waveforms of the run")
    parser.add_argument(
        "--container",
        metavar="FILE",
        help="the network that the program is of: its file says what is done to a picture, as for evaluate",
    )
    parser.add_argument("--mean", type=_numbers, help="of a picture's channels, 0..1; with --std")
    parser.add_argument("--std", type=_numbers, help="of a picture's channels, 0..1; with --mean")
    parser.add_argument("--colours", choices=COLOURS, help=f"order of a picture's three channels ({COLOURS[0]})")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _run(options: argparse.Namespace) -> int:
    check_outputs(options, "output", "json", "trace")

    from sw.executor import execute
    from sw.perf.prediction import predict
    from sw.perf.timing import measured
    from sw.program import read_program
    from sw.program.steps import is_stepped_program, read_stepped_program

    if options.backend == "perf" and (options.inputs or options.output):
        raise RunError("perf takes no INPUT and no --output: cycles do not depend on values")
    if options.backend == "rtl" and importlib.util.find_spec("cocotb_tools") is None:
        raise RunError("--backend rtl needs the extra sim: pip install 'msvq[sim]', in a checkout '.[sim]'")
    if options.output and Path(options.output).suffix not in (".npy", ".npz"):
        raise RunError(f"--output must end in .npy, or .npz for several outputs, not {options.output!r}")
    if options.trace and options.backend != "rtl":
        raise RunError("--trace is for --backend rtl: nothing else has waveforms")
    if options.backend == "golden" and options.json:
        raise RunError("--json is for rtl and perf: the golden model has no cycles")
    pictures = [path for path in options.inputs if Path(path).suffix != ".npy"]
    for name in ("mean", "std", "colours"):
        if getattr(options, name) is not None and not pictures:
            raise RunError(
                f"--{name} is for pictures, and no INPUT is one: .npy is taken as int8 or normalised already"
            )
    if is_stepped_program(options.program):
        return _run_steps(read_stepped_program(options.program), options)
    program = read_program(options.program)
    if options.backend == "perf":
        return _report(program.config, predict(program), None, options.json)
    batches = _batches(program.inputs, options, program.metadata)
    memories = [program.memory(images) for images in zip(*batches, strict=True)]
    with ExitStack() as files:
        # Before the work, which can take minutes.
        target = files.enter_context(staged(options.output)) if options.output else None
        if options.backend == "golden":
            done = [
                execute(program, memory, check=options.check, progress=not options.quiet).memory for memory in memories
            ]
        else:
            done = _simulate(options.program, program, memories, options.trace)
        results = {
            tensor.name: np.stack([program.read(memory, tensor) for memory in done]) for tensor in program.outputs
        }
        if target:
            _write(target, options.output, results)
    _print_outputs(results)
    if options.backend == "golden":
        return 0
    status = _report(program.config, measured(program, done[-1]), predict(program), options.json)
    if not options.check:
        return status
    runs = zip(range(len(memories)), [program] * len(memories), memories, done, strict=True)
    return _compare(list(runs), options)


def _batches(
    inputs: Sequence[Input], options: argparse.Namespace, metadata: Mapping[str, Any]
) -> list[NDArray[np.int8]]:
    """The images of each input. ``metadata`` are the program's."""
    if len(options.inputs) != len(inputs):
        raise RunError(f"the program takes an INPUT for each of its {len(inputs)} inputs, not {len(options.inputs)}")
    if (options.mean is None) != (options.std is None):
        raise RunError("--mean and --std must be given together")
    how = _preprocessing(inputs, options, metadata)
    batches = [
        read_images(path, entry, options.mean, options.std, options.colours or COLOURS[0], how)
        for path, entry in zip(options.inputs, inputs, strict=True)
    ]
    counts = {len(batch) for batch in batches}
    if len(counts) > 1:
        raise RunError(f"all INPUTs must have as many images, not {sorted(counts)}")
    return batches


def _preprocessing(
    inputs: Sequence[Input], options: argparse.Namespace, metadata: Mapping[str, Any]
) -> Preprocessing | None:
    """What ``--container`` says of pictures, or else the program; None where neither does. Options come first."""
    path, said = options.program, metadata.get("preprocessing")
    if options.container is not None:
        from sw.network import NetworkError, read_network

        path = options.container
        try:
            network = read_network(path)
        except NetworkError as error:
            raise RunError(f"--container {error}") from None
        given = {(entry.shape, entry.tensor.scale) for entry in inputs}
        if given != {(network.image_shape or inputs[0].shape, network.input_scale)}:
            raise RunError(f"--container {path!r} must be the network of the program: its input is another one")
        said = network.about.get("preprocessing")
        if said is None:
            raise RunError(f"--container {path!r} does not say what is done to a picture: give --mean and --std")
    if said is None:
        return None

    from sw.compress.methods import CompressError
    from sw.compress.training.preprocessing import Preprocessing

    own = {name: value for name in ("mean", "std", "colours") if (value := getattr(options, name)) is not None}
    try:
        return dataclasses.replace(Preprocessing.of(said), **own)
    except CompressError as error:
        raise RunError(f"{path}: {error}") from None


def _run_steps(steps: SteppedProgram, options: argparse.Namespace) -> int:
    """Run a network in steps."""
    from rich.console import Console
    from rich.progress import Progress

    from sw.executor import execute
    from sw.perf.prediction import predict
    from sw.perf.timing import measured
    from sw.program import write_program

    programs = steps.programs

    def model() -> list[LayerTiming]:
        return [timing for program in programs.values() for timing in predict(program)]

    if options.backend == "perf":
        return _report(steps.config, model(), None, options.json, steps)
    (images,) = _batches([steps.input], options, {})
    timings: list[LayerTiming] = []
    runs: list[tuple[int, Program, NDArray[np.uint8], NDArray[np.uint8]]] = []
    with ExitStack() as files:
        target = files.enter_context(staged(options.output)) if options.output else None
        folder = files.enter_context(tempfile.TemporaryDirectory())
        console = Console(stderr=True)
        # The simulation has a bar of its own.
        hidden = options.quiet or options.backend == "rtl"
        bar = files.enter_context(Progress(console=console, transient=True, disable=hidden))
        task = bar.add_task("steps", total=len(programs))

        def trace_of(number: int) -> str | None:
            """Each program has waveforms of its own."""
            whole = Path(options.trace or "")
            return str(whole.with_name(f"{whole.stem}-{number}{whole.suffix}")) if options.trace else None

        def execute_all(number: int, jobs: Sequence[tuple[Program, NDArray[np.uint8]]]) -> list[NDArray[np.uint8]]:
            bar.advance(task)
            if options.backend == "golden":
                return [execute(bound, memory, check=options.check).memory for bound, memory in jobs]
            path = str(Path(folder, f"{number}.program"))
            write_program(path, programs[number])
            done = _simulate(path, programs[number], [memory for _, memory in jobs], trace_of(number))
            timings.extend(measured(programs[number], done[-1]))
            if options.check:
                runs.extend((image, *job, found) for image, (job, found) in enumerate(zip(jobs, done, strict=True)))
            return done

        found = steps.results(images, execute_all)
        results = {output.name: values for output, values in zip(steps.outputs, found, strict=True)}
        if target:
            _write(target, options.output, results)
    _print_outputs(results)
    if options.backend == "golden":
        return 0
    status = _report(steps.config, timings, model(), options.json, steps)
    return _compare(runs, options) if options.check else status


# Inputs and outputs


def quantise_input(entry: Input, values: NDArray[Any]) -> NDArray[np.int8]:
    """Values as a program's int8 input: int8 as they are, floats divided by its scale and rounded, halves to even.

    Raises
    ------
    RunError
        Another dtype, a value that is not finite, or an input whose scale is not known.
    """
    where = f"input {entry.tensor.name!r}"
    if values.dtype == np.int8:
        return values
    if values.dtype.kind != "f":
        raise RunError(f"{where}: values must be int8 or float, not {values.dtype}")
    if entry.tensor.scale is None:
        raise RunError(f"{where}: values must be int8, since the program does not say the input's scale")
    if not np.isfinite(values).all():
        raise RunError(f"{where}: values must be finite")
    integers: NDArray[np.float32] = np.rint(values.astype(np.float32) / np.float32(entry.tensor.scale))
    return integers.clip(-128, 127).astype(np.int8)


def read_images(
    path: str,
    entry: Input,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    colours: str = COLOURS[0],
    how: Preprocessing | None = None,
) -> NDArray[np.int8]:
    """The images of a file, int8 ``[images, C, rows, columns]``.

    Parameters
    ----------
    path
        ``.npy``, or a picture: its middle, of the input's proportions, is resized to the input's size.
    entry
        The input that they are for.
    mean, std
        How a picture is normalised, for each channel in the order of ``colours``: ``(pixel / 255 - mean) / std``.
    colours
        One of :data:`sw.format.picture.COLOURS`, the order in which the network reads them.
    how
        What is done to a picture, by the function that ``msvq evaluate`` has; the three above count where it is None,
        with bicubic interpolation and the edges that the proportions leave.

    Raises
    ------
    RunError
        The file is neither, has another shape than the input, or is a picture without mean and std.
    OSError
        The file cannot be read.
    """
    shape = entry.shape
    with open(path, "rb") as file:
        kind = kind_of(file.read(4))
    if kind:
        raise RunError(f"{path}: is a {kind}, and an INPUT is wanted: .npy or a picture")
    values = _array(path) if Path(path).suffix == ".npy" else _picture(path, shape, mean, std, colours, how)
    if values.ndim == 3:
        values = values[None]
    if values.ndim != 4 or values.shape[1:] != shape or not len(values):
        wanted = " x ".join(map(str, shape))
        raise RunError(f"{path}: must be [{wanted}] or [images x {wanted}], not {list(values.shape)}")
    return quantise_input(entry, values)


def _array(path: str) -> NDArray[Any]:
    try:
        with open(path, "rb") as file:
            values: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # numpy lets errors of every kind out of its reader of headers
        raise RunError(f"{path}: must be an array in .npy format: {' '.join(str(error).split())}") from None
    return values


def _picture(
    path: str,
    shape: tuple[int, int, int],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    colours: str,
    how: Preprocessing | None,
) -> NDArray[np.float32]:
    from PIL import Image

    channels, rows, columns = shape
    if Path(path).suffix == ".npz":
        raise RunError(f"{path}: must be .npy or a picture, not .npz: np.save one of its arrays")
    if how is not None:
        mean, std = zip(*how.channels(channels), strict=True)
        colours = how.colours
    if mean is None or std is None or len(mean) != channels or len(std) != channels or not all(std):
        raise RunError(f"{path}: a picture needs --mean and --std of {channels} channels, the latter not 0")
    if channels not in (1, 3):
        raise RunError(f"{path}: a picture must be for an input of 1 or 3 channels, not {channels}")
    try:
        picture = read_picture(path, "RGB" if channels == 3 else "L")
    except UnknownPictureError:
        raise RunError(f"{path}: must be .npy or a picture") from None
    except PictureError as error:
        raise RunError(f"{path}: {error}") from None
    if how is not None:
        from sw.compress.training.preprocessing import fitted

        sized = fitted(picture, (rows, columns), how)
    else:
        sized = middle_part(picture, rows, columns).resize((columns, rows), Image.Resampling.BICUBIC)
    pixels = np.asarray(sized, np.float32).reshape(rows, columns, -1)
    if colours == "bgr":
        pixels = pixels[:, :, ::-1]
    normalised = (pixels / 255 - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1).astype(np.float32))


def _write(target: Path, name: str, results: dict[str, NDArray[Any]]) -> None:
    from sw.format.npz import write_npz

    with open(target, "wb") as file:
        if Path(name).suffix == ".npz":
            write_npz(file, results)
        elif len(results) == 1:
            np.save(file, next(iter(results.values())))
        else:
            raise RunError(f"--output must end in .npz for {len(results)} outputs, not {name!r}")


def _print_outputs(results: Mapping[str, NDArray[Any]]) -> None:
    for name, values in results.items():
        size = " x ".join(map(str, values.shape))
        print(f"{name}: {values.dtype} [{size}], CRC-32 {zlib.crc32(values.tobytes()):08x}")
        if values.dtype == np.int32 and values[0].size == values.shape[1]:
            for number, logits in enumerate(values.reshape(len(values), -1)):
                largest = np.argsort(-logits.astype(np.int64), kind="stable")[:TOP]
                print(f"  image {number}: " + ", ".join(f"class {c} {logits[c]}" for c in largest))


# The simulated hardware


def _simulate(
    path: str, program: Program, memories: Sequence[NDArray[np.uint8]], trace: str | None = None
) -> list[NDArray[np.uint8]]:
    """DRAM after each run. The simulation is another program: software does not depend on it."""
    with tempfile.TemporaryDirectory() as folder:
        files = [(Path(folder, f"{i}.before"), Path(folder, f"{i}.after")) for i in range(len(memories))]
        for (before, _), memory in zip(files, memories, strict=True):
            before.write_bytes(memory.tobytes())
        command = [sys.executable, "-m", "sim.accelerator", path, *(str(file) for pair in files for file in pair)]
        command += ["--trace", trace] if trace else []
        status = subprocess.run(command, check=False).returncode
        if status:
            raise RunError(f"the simulation ended with status {status}")
        return [np.frombuffer(after.read_bytes(), np.uint8).copy() for _, after in files]


def _compare(
    runs: Sequence[tuple[int, Program, NDArray[np.uint8], NDArray[np.uint8]]], options: argparse.Namespace
) -> int:
    """Compare every tensor in DRAM with the golden run's; the exit status.

    ``runs`` are the number of an image, a program, the DRAM before and the DRAM after.
    """
    from sw.executor import execute

    checked = 0
    compared = set()
    for image, program, memory, found in runs:
        tensors: list[Tensor] = [layer.tensor for layer in program.layers if layer.tensor] + list(program.outputs)
        expected = execute(program, memory, progress=not options.quiet).memory
        for tensor in tensors:
            place = slice(tensor.address - program.base, tensor.address - program.base + tensor.size)
            differing = np.flatnonzero(found[place] != expected[place])
            checked += tensor.size
            compared.add(tensor.address)
            if len(differing):
                first = int(differing[0])
                print(
                    f"image {image}: {len(differing)} of {tensor.size} bytes of {tensor.name!r} differ from golden; "
                    f"first byte {first}: {found[place][first]}, not {expected[place][first]}"
                )
                return 1
    images = len({image for image, *_ in runs})
    print(f"{checked} bytes of {len(compared)} tensors, {images} images: equal to golden")
    return 0


# The table of layers


def _report(
    config: AcceleratorConfig,
    timings: list[LayerTiming],
    model: list[LayerTiming] | None,
    path: str | None,
    steps: SteppedProgram | None = None,
) -> int:
    from sw.perf.report import layer_entries, print_layers, print_whole

    if not timings:
        print("no layer has a record of the counters")
        return 0
    report = layer_entries(config, timings, model)
    print_layers(report)
    result: dict[str, Any] = {"layers": report[:-1], "total": report[-1]}
    if steps is not None:
        result["host"] = [dataclasses.asdict(transfer) for transfer in steps.transfers()]
        print_whole(_host_table(steps))
    if path:
        with staged(path) as target:
            target.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def _host_table(steps: SteppedProgram) -> Table:
    """What the host does between the programs."""
    from rich.table import Table

    table = Table("step", "operation", "on", box=None)
    for heading in ("host writes bytes", "host reads bytes"):
        table.add_column(heading, justify="right")
    transfers = steps.transfers()
    for entry in transfers:
        moved = (str(entry.written), str(entry.read)) if entry.number in steps.programs else ("", "")
        label = steps.operations[entry.number].label
        name = "" if label == entry.operation else label
        place = "array" if entry.number in steps.programs else "host"
        table.add_row(str(entry.number), f"{entry.operation} {name}".strip(), place, *moved)
    table.add_row("total", "", "", *(str(sum(getattr(x, name) for x in transfers)) for name in ("written", "read")))
    return table


if __name__ == "__main__":
    sys.exit(main())
