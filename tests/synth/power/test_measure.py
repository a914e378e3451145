"""Gate-level simulation: bit for bit golden's sums, an error in a netlist found, the same figures again."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from hw.config import preset
from sim.networks.activations import photograph_path
from sim.scenarios import random_activations, random_layer
from sw.compress.training.integer import read_network
from synth.flow import GateNetlist
from synth.generic import generic
from synth.power import __main__ as command
from synth.power import sources
from synth.power.cells import characterise
from synth.power.measure import OPERATIONS, PowerError, gate_netlist, measure
from synth.power.memories import PAPER_COSTS, memory_energy
from synth.power.netlist import CellArray, FlatNetlist, flatten
from synth.power.report import describe, markdown, write
from synth.power.simulator import Simulator, SimulatorError, Transfers
from synth.power.sources import RealLayer, SourceError, first_layer, real_layers
from synth.power.workload import lanes
from synth.report import CACHE
from tests.refusals import Refused, refusals

LIBRARY = generic()


def workload(config, count: int = 6):
    rng = np.random.default_rng(1)
    layers = []
    for shape, size in (((16, 8, 3, 3), (9, 9)), ((8, 12, 1, 1), (12, 12))):
        layer = random_layer(config, rng, shape, padding=(shape[2] // 2,) * 2, values="normal")
        layers.append(RealLayer(layer, random_activations(rng, (shape[1], *size), "normal")))
    return lanes(config, layers, OPERATIONS, count)


@pytest.fixture(scope="module")
def built():
    config = preset("ews-msvq-tiny").override(["clock_gating=true"])
    return config, gate_netlist(config, LIBRARY, "gated"), workload(config)


@pytest.fixture(scope="module")
def measured(built):
    config, netlist, runs = built
    return measure(config, netlist, LIBRARY, runs, 1000.0)


@pytest.fixture(scope="module")
def first(built):
    """The first layer, whose dense weights take passes on the sparse tile."""
    config, netlist, _ = built
    runs = lanes(config, [first_layer(config, photograph_path())], OPERATIONS, 4)
    return measure(config, netlist, LIBRARY, runs, 1000.0, glitches=False)


@pytest.fixture(scope="module")
def described(built, measured, first):
    """With ResNet-18 as a whole."""
    return describe(built[0], measured, "random", 1.1, first)


def test_every_sum_is_golden(built, measured) -> None:
    """Of tiles that start from zero, and of tiles that add to earlier sums."""
    config, _, runs = built
    assert measured.sums == sum(len(run.expected) for run in runs) * config.L
    assert {run.tile.first for run in runs} == {True, False}
    assert measured.simulated == 1.0
    assert measured.windows["run"].operations == measured.windows["run"].cycles
    assert measured.windows["load"].row_writes > 0
    assert measured.windows["stall"].operations == measured.windows["idle"].operations == 0


def test_energies_are_in_order(measured) -> None:
    """Waiting takes less than computing, and glitches come on top."""
    assert 0 < measured.per_cycle("idle") <= measured.per_cycle("stall") < 0.5 * measured.per_cycle("run")
    assert measured.per_mac("timed") > measured.per_mac("functional") > 0
    assert not measured.windows["stall"].energies.data.any()


def test_same_figures_again(built, measured) -> None:
    config, netlist, runs = built
    again = measure(config, netlist, LIBRARY, runs, 1000.0)
    for name, window in measured.windows.items():
        for part in ("data", "clock", "leakage"):
            assert (getattr(window.energies, part) == getattr(again.windows[name].energies, part)).all()


def test_the_first_layer_takes_passes(built, first) -> None:
    """Of the weights of an operation, N of M are there; sums are golden's, and every operation is counted."""
    config, _, _ = built
    runs = lanes(config, [first_layer(config, photograph_path())], OPERATIONS, 4)
    assert first.layers == {"conv1": 4}
    assert first.macs <= config.H * config.L * config.N / config.M
    run = runs[0]
    positions = len(run.expected) // run.tile.A
    assert run.operations == len(run.streams["i_activation"]) * run.tile.A
    assert run.operations == positions * run.tile.A * run.tile.B * run.tile.D * config.M // config.N
    assert run.operations >= OPERATIONS
    assert not run.codewords
    assert first.windows["run"].operations == first.windows["run"].cycles


def test_weights_through_l2_are_written_and_read() -> None:
    config = preset("ews-16")
    counts = dict.fromkeys(("l2_reads", "l2_writes", "l1_reads", "l1_writes", "psum_reads", "psum_writes"), 1)
    plain, more = (memory_energy(config, counts, 1.1, 3.0, weights) for weights in (0, 1000))
    assert more.paper == plain.paper == plain.staged > 0
    assert more.model == plain.model
    assert more.staged - more.paper == pytest.approx(2 * 1000 * PAPER_COSTS["L2"] * 3.0)
    assert more.bytes["weights"] == 1000


def _swapped(netlist: FlatNetlist, name: str, instance: int) -> FlatNetlist:
    """Two inputs of an instance change places."""
    cell = netlist.cells[name]
    nets = cell.nets.copy()
    nets[instance, [0, 2]] = nets[instance, [2, 0]]
    return replace(netlist, cells={**netlist.cells, name: CellArray(cell.pins, nets, cell.blocks)})


def test_a_swapped_input_is_found(built) -> None:
    config, netlist, runs = built
    multipliers = netlist.blocks.index("multipliers")
    aoi = netlist.cells["AOI21"]
    assert aoi.pins[:3] == ["A", "B", "C"]
    instance = int(np.flatnonzero(aoi.blocks == multipliers)[0])
    with pytest.raises(PowerError, match=r"bits of o_psum differ from the golden model's; first in lane \d+"):
        measure(config, _swapped(netlist, "AOI21", instance), LIBRARY, runs, 1000.0, glitches=False)


def test_toggles_are_those_of_a_plain_evaluation() -> None:
    """Every net of an adder tree, in both modes, against a simulation of one cell after the other."""
    rng = np.random.default_rng(0)
    # y = (a ^ b) & c, registered; z = !y
    modules = {
        "top": GateNetlist(
            {"clk": [2], "rst": [3], "i_x__valid": [4], "i_x__ready": [5], "i_x__payload": [6, 7, 8], "o": [9]},
            ["clk", "rst", "i_x__valid", "i_x__payload"],
            {
                "XOR2": (["A", "B", "Y"], [[6, 7, 10]]),
                "AND2": (["A", "B", "Y"], [[10, 8, 11]]),
                "DFF": (["CK", "D", "Q"], [[2, 11, 9]]),
                "INV": (["A", "Y"], [[3, 5]]),
            },
            [],
        )
    }
    netlist = flatten(modules, "top", {}, "other")
    values = [[int(v) for v in rng.integers(0, 8, 40)] for _ in range(3)]
    library = characterise(LIBRARY, netlist.cells)
    for timed in (False, True):
        simulator = Simulator(netlist, library.cells, {"i_x": Transfers(values, 3)}, 3, CACHE)
        simulator.reset()
        simulator.enable("i_x", True)
        simulator.run(1)
        simulator.start()
        if timed:
            simulator.run_timed(39, np.ones(netlist.nets, np.int32))
        else:
            simulator.run(39)
        simulator.finish()
        taken = np.array(values)
        a, b, c = taken & 1, taken >> 1 & 1, taken >> 2
        signals = {6: a, 7: b, 8: c, 10: a ^ b, 11: (a ^ b) & c}
        for net, signal in signals.items():
            wanted = int((signal[:, 1:] != signal[:, :-1]).sum())
            assert simulator.toggles[net] == wanted, (net, timed)
            if timed:
                assert simulator.timed_toggles[net] >= wanted
        # a and b come together, so nothing glitches there; c is earlier than a ^ b.
        late = (a ^ b)[:, :-1] & c[:, 1:]
        settled = signals[11]
        steps = (settled[:, :-1] != late).sum() + (late != settled[:, 1:]).sum()
        if timed:
            assert simulator.timed_toggles[10] == simulator.toggles[10]
            assert simulator.timed_toggles[11] == steps


def _broken(**changes) -> FlatNetlist:
    gates = GateNetlist({"clk": [2], "rst": [3], "o": [4]}, ["clk", "rst"], {"INV": (["A", "Y"], [[3, 4]])}, [])
    return flatten({"top": replace(gates, **changes)}, "top", {}, "other")


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"INV": (["A", "Y"], [[5, 4]])}, "1 nets are read and have no driver"),
        ({"INV": (["A", "Y"], [[3, 4], [3, 4]])}, "1 nets have two drivers"),
        ({"INV": (["A", "Y"], [[5, 4], [4, 5]])}, "2 cells are in loops of logic"),
        ({"DFF": (["CK", "D", "Q"], [[3, 3, 4]])}, "the clock of a DFF is neither the design's nor a clock gate's"),
        ({"INV": (["Z", "Y"], [[3, 4]])}, "cell INV of the netlist has no pin A"),
    ],
)
def test_netlists_that_cannot_run_are_refused(cells, message: str) -> None:
    netlist = _broken(cells=cells)
    models = characterise(LIBRARY, netlist.cells).cells
    with pytest.raises(SimulatorError, match=message):
        Simulator(netlist, models, {}, 1, CACHE)


def test_too_few_simulated_nets_are_refused(built, monkeypatch) -> None:
    config, netlist, runs = built
    hidden = {name: cell for name, cell in netlist.cells.items() if name not in ("DFF", "FA")}
    with pytest.raises(PowerError, match=r"toggles of \d\d\.\d % of the nets are simulated, less than 95%"):
        measure(config, replace(netlist, cells=hidden), LIBRARY, runs, 1000.0)


def test_report(built, measured, described, tmp_path) -> None:
    config, _, _ = built
    described = {"ews-msvq-tiny": described}
    settings = {"unit": "fJ", "storage": "gated", "period": 1000.0, "wire": "none"}
    paths = write(described, LIBRARY, settings, tmp_path)
    result = json.loads(paths[0].read_text())["presets"]["ews-msvq-tiny"]
    blocks = result["blocks"].values()
    assert sum(block[part] for block in blocks for part in ("data", "clock", "leakage")) == pytest.approx(
        result["per_mac"]
    )
    assert sum(block["stall"] for block in blocks) == pytest.approx(result["stall"])
    assert result["stall"] * config.H * config.L == pytest.approx(measured.per_cycle("stall"))
    network = result["network"]
    assert sum(network["array"].values()) == pytest.approx(network["array_per_mac"])
    # All operations by the energy of their own kind, those of the first and the last layer apart.
    inner = network["array"]["operations"] - network["first"]
    assert 0 < network["first"] < network["array"]["operations"]
    places = config.H * config.L
    assert result["per_mac"] * places * result["share"] == pytest.approx(result["operation"])
    assert inner * network["macs"] / (result["per_mac"] * places) == pytest.approx(
        network["counters"]["operations"] - network["first"] * network["macs"] / result["first"]["operation"]
    )
    assert network["memories"]["staged_per_mac"] > network["memories"]["paper_per_mac"] > 0
    scope = network["inner"]
    assert scope["first"] == 0
    assert scope["macs"] == network["macs"] - 64 * 3 * 49 * 112**2 - 512 * 1000
    assert scope["array"]["operations"] * scope["macs"] == pytest.approx(inner * network["macs"])
    assert scope["memories"]["bytes"]["L2"] < network["memories"]["bytes"]["L2"]
    # Every weight is fetched at least once, in N of M places and with its mask, sign and index.
    assert network["weights"] > 11_000_000 // 16
    text = "\n".join(markdown(described, {**settings, "library": {"name": "generic"}}))
    assert text + "\n" == paths[1].read_text()


def test_command_says_what_was_measured(built, described, tmp_path, monkeypatch) -> None:
    """With defaults: the photograph is one of scikit-learn's, and registers and their pipeline are gated."""
    config, netlist, _ = built
    asked = []

    def instead(config, library, options):
        asked.append((config, options))
        return described

    monkeypatch.setattr(command, "worker_pool", ThreadPoolExecutor)
    monkeypatch.setattr("synth.power.report.measure_instance", instead)
    assert command.main(["--preset", "ews-msvq-tiny", "-o", str(tmp_path)]) == 0
    ((found, options),) = asked
    assert found == config
    assert options["photograph"] == photograph_path()
    report = json.loads((tmp_path / "power.json").read_text())
    assert report["settings"]["photograph"] == photograph_path().name
    assert report["settings"]["storage"] == "gated"
    area = sum(len(cell.nets) * LIBRARY.cells[name].area for name, cell in netlist.cells.items())
    assert report["presets"]["ews-msvq-tiny"]["area"] == pytest.approx(area)


def test_a_damaged_photograph_is_refused_before_the_work(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(command, "worker_pool", None)
    photograph = tmp_path / "bad.png"
    Image.new("RGB", (90, 90)).save(photograph)
    photograph.write_bytes(photograph.read_bytes()[:60])
    with pytest.raises(SystemExit, match="2"):
        command.main(["--preset", "ews-msvq-tiny", "-o", str(tmp_path / "out"), "--photograph", str(photograph)])
    error = capsys.readouterr().err
    assert f"python -m synth.power: --photograph '{photograph}': cannot be read as a picture: " in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_fields_may_follow_a_preset(described, tmp_path, monkeypatch) -> None:
    asked = []

    def instead(config, library, options):
        asked.append(config)
        return described

    monkeypatch.setattr(command, "worker_pool", ThreadPoolExecutor)
    monkeypatch.setattr("synth.power.report.measure_instance", instead)
    assert command.main(["--preset", "ews-msvq-tiny prf_depth=4", "-o", str(tmp_path)]) == 0
    assert asked == [preset("ews-msvq-tiny").override(["clock_gating=true", "prf_depth=4"])]
    assert list(json.loads((tmp_path / "power.json").read_text())["presets"]) == ["ews-msvq-tiny prf_depth=4"]
    # And so are those of --set.
    assert command.main(["--preset", "ews-msvq-tiny", "--set", "prf_depth=4", "-o", str(tmp_path)]) == 0
    assert asked[1] == asked[0]
    assert list(json.loads((tmp_path / "power.json").read_text())["presets"]) == ["ews-msvq-tiny prf_depth=4"]


def test_without_the_network_there_is_no_first_layer(built, measured) -> None:
    described = describe(built[0], measured, "random", None, None)
    assert not {"network", "first"} & set(described)


@refusals(
    """
    --preset none -> unknown preset 'none'
    --preset 'ews-16 rows=1' -> unknown field 'rows'
    --preset ' ' -> unknown preset ' '
    --period 0 -> --period must be above 0 and below 1e9 ps, not 0
    --jobs 0 -> --jobs must be in 1..64, not 0
    --wire long -> unknown wire load 'long'; the library has none
    --lib none.lib -> none.lib: cannot read the Liberty file
    --network vgg -> invalid choice: 'vgg'
    --network resnet18 --preset ews-16 --preset ews-ssvq-16 -> ews-ssvq-16: resnet18 has no container of method ssvq
    --network resnet20 --preset 'ews-cms-16 k=16' -> ews-cms-16 k=16: resnet20-mvq-4-16.msvq has no layer with a
    --photograph none.jpg -> No such file or directory: 'none.jpg'
    """
)
def test_bad_arguments_are_one_line(arguments, message: str, refused: Refused, tmp_path) -> None:
    assert message in refused(command.main, [*arguments, "-o", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_a_network_without_the_layers_is_refused() -> None:
    config = preset("ews-ssvq-16")
    with pytest.raises(SourceError, match="resnet18 has no container of method ssvq; there are msvq, mvq"):
        real_layers("resnet18", config, photograph_path())


def test_a_container_is_read_once_for_the_check_and_all_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = []

    def read(path):
        paths.append(path.name)
        return read_network(path)

    monkeypatch.setattr(sources, "read_network", read)
    for name in ("ews-msvq-16", "ews-msvq-64"):
        sources.check_network("resnet20", preset(name))
    layers, text = real_layers("resnet20", preset("ews-msvq-16"), photograph_path())
    assert len(paths) <= 1  # 0 where another test had it
    assert text.startswith("resnet20-msvq-")
    assert {layer.layer.method for layer in layers} == {"msvq"}
