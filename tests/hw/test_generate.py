"""The command line that emits Verilog, and the manifest."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import re

import pytest

from hw.bus import register_map
from hw.config import PRESETS, ConfigError, preset
from hw.generate import TOP, UNITS, generate, main, write

CONFIG = preset("ews-cms-tiny")


@pytest.fixture(scope="module")
def generated():
    return generate(CONFIG, "ews-cms-tiny")


def test_command_line_writes_both_files(generated, tmp_path, capsys) -> None:
    folder = tmp_path / "new" / "folder"
    assert main(["--preset", "ews-cms-tiny", "-o", str(folder)]) == 0
    assert (folder / "ews-cms-tiny.v").read_text() == generated.verilog  # a second run: the same bytes
    manifest = json.loads((folder / "ews-cms-tiny.json").read_text())
    assert manifest == json.loads(json.dumps(generated.manifest))
    assert manifest["sha256"]["verilog"] == hashlib.sha256((folder / "ews-cms-tiny.v").read_bytes()).hexdigest()
    assert sorted(path.suffix for path in folder.iterdir()) == [".core", ".json", ".sdc", ".v", ".vlt"]
    output = capsys.readouterr().out
    assert str(folder / "ews-cms-tiny.v") in output
    assert "core: 4 x 8 ews-cms, 16 multipliers" in output


def test_set_overrides_a_field(tmp_path) -> None:
    assert main(["--preset", "ews-tiny", "--set", "H=2", "prf_depth=2", "-o", str(tmp_path)]) == 0
    # Instances that differ do not overwrite each other's files.
    configuration = json.loads((tmp_path / "ews-tiny-H-2-prf_depth-2.json").read_text())["configuration"]
    assert (configuration["H"], configuration["prf_depth"]) == (2, 2)


def test_name_is_that_of_files_and_modules_and_changes_nothing_else(accelerator, tmp_path) -> None:
    arguments = ["--preset", "ews-cms-tiny", "--unit", "accelerator", "--name", "npu", "--period", "1.25"]
    assert main([*arguments, "-o", str(tmp_path)]) == 0
    verilog = (tmp_path / "npu.v").read_text()
    assert re.sub(r"\bnpu", "accelerator", verilog) == accelerator.verilog
    assert all(name.startswith("npu") for name in re.findall(r"^module (\S+)", verilog, re.MULTILINE))
    assert json.loads((tmp_path / "npu.json").read_text())["top"] == "npu"
    constraints = (tmp_path / "npu.sdc").read_text()
    assert "set period 1.25\n" in constraints
    for port in accelerator.manifest["ports"]:
        assert re.search(rf"[ {{]{port['name']}[\]}} ]", constraints), port


def test_units_do_not_mix_under_one_name(generated, accelerator, tmp_path, capsys) -> None:
    """One's Verilog would be replaced by the other's, and its header and driver left beside that."""
    write(generated, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    other = dataclasses.replace(accelerator, name=generated.name)
    with pytest.raises(ConfigError, match=r"where those of the unit core have it: give one \(--name\), or another"):
        write(other, tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["--preset", "ews-cms-tiny", "--unit", "accelerator", "-o", str(tmp_path)])
    assert capsys.readouterr().err.startswith("python -m hw.generate: name of the files must be another than")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    # The same again, and what is no manifest, are no reason.
    write(generated, tmp_path)
    for text in ("[]", "{", '{"unit": ["core"]}', '{"unit": "house"}'):
        (tmp_path / f"{generated.name}.json").write_text(text)
        write(generated, tmp_path)


def test_memories_of_the_manifest_are_those_of_the_verilog(accelerator, generated) -> None:
    assert generated.manifest["memories"] == []
    found = accelerator.manifest["memories"]
    for memory in found:
        body = re.search(rf"^module {memory['module']}\(.*?^endmodule", accelerator.verilog, re.MULTILINE | re.DOTALL)
        assert body is not None
        assert f"reg [{memory['width'] - 1}:0] mem [{memory['depth'] - 1}:0];" in body[0]
        instances = len(re.findall(rf"^  {memory['module']} ", accelerator.verilog, re.MULTILINE))
        assert 1 <= instances <= memory["instances"]
    assert accelerator.verilog.count(" mem [") == len(found)
    assert found[0]["depth"] * found[0]["width"] == 8 * CONFIG.l2_bytes


@pytest.fixture(scope="module")
def accelerator():
    return generate(CONFIG, "ews-cms-tiny", "accelerator")


@pytest.mark.parametrize("unit", UNITS)
def test_ports_of_the_manifest_are_those_of_the_verilog(unit, request) -> None:
    generated = request.getfixturevalue("generated" if unit == TOP else unit)
    header = re.search(rf"^module {unit}\((.*?)\);(.*?)^endmodule", generated.verilog, re.MULTILINE | re.DOTALL)
    assert header is not None
    declared = {
        name: (direction.removesuffix("put"), int(high or 0) + 1)
        for direction, high, name in re.findall(
            r"^  (input|output)(?: signed)? (?:\[(\d+):0\] )?(\w+);", header[2], re.MULTILINE
        )
    }
    assert {port["name"]: (port["direction"], port["width"]) for port in generated.manifest["ports"]} == declared


def test_the_accelerator_has_registers_and_bus_ports(accelerator, tmp_path) -> None:
    write(accelerator, tmp_path)
    endings = [".core", ".h", ".json", ".sdc", ".v", ".vlt", ".xml", "_driver.h", "_example.c"]
    assert sorted(path.name.removeprefix("ews-cms-tiny") for path in tmp_path.iterdir()) == endings
    assert (tmp_path / "ews-cms-tiny.h").read_text() == register_map.header()
    assert accelerator.manifest["registers"] == json.loads(json.dumps(register_map.manifest()["registers"]))
    ports = {port["name"]: port["width"] for port in accelerator.manifest["ports"]}
    assert ports["m_axi_rdata"] == CONFIG.word_width
    assert ports["s_axil_wdata"] == 32
    assert ports["o_interrupt"] == 1


@pytest.mark.usefixtures("unelaborated")
def test_the_accelerator_refuses_words_that_axi_lacks(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--unit", "accelerator", "--preset", "ews-tiny", "--set", "word_width=24", "-o", str(tmp_path)])
    assert "word_width must be a power of two in 8..512 for AXI, not 24" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_streams_and_command_layout(generated) -> None:
    streams = generated.manifest["streams"]
    assert {"i_command", "i_weight", "i_mask", "i_activation", "i_psum", "o_psum"} == set(streams)
    assert streams["o_psum"]["direction"] == "out"
    element = {"width": CONFIG.psum_width, "signed": True}
    assert streams["o_psum"]["payload"] == {
        "width": CONFIG.psum_width * CONFIG.L,
        "elements": CONFIG.L,
        "element": element,
    }
    fields = generated.manifest["command"]["fields"].values()
    offset = 0
    for field in fields:  # no gaps, no overlaps
        assert field["offset"] == offset
        offset += field["width"]
    assert offset == generated.manifest["command"]["width"]
    assert generated.manifest["derived"]["Q"] == CONFIG.Q


def test_list(capsys) -> None:
    assert main(["--list"]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in PRESETS)


#: More fields than a file's name holds.
CHANGES = (
    "H=256 L=256 arf_depth=256 prf_depth=256 l1_ifmap_bytes=4096 l1_psum_bytes=4096 burst_words=256 fifo_words=512"
    " l2_bytes=4194304 psum_register=true scaler_register=true transfer_register=true"
    " zero_gating=true clock_gating=true"
)


def test_a_unit_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match="unit must be one of core, accelerator, not 'acelerator'"):
        generate(CONFIG, "x", "acelerator")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "ews-17"], r"unknown preset 'ews-17'; the presets are ws-16,"),
        (["--preset", "ews-tiny", "--set", "H"], r"expected field=value, not 'H'"),
        (["--preset", "ews-tiny", "--set", "height=4"], r"unknown field 'height'; the fields are variant,"),
        (["--preset", "ews-tiny", "--set", "H=0"], r"H must be in 1\.\.256, not 0"),
        (["--preset", "ews-tiny", "--set", "H=many"], r"H must be int, not str 'many'"),
        ([], r"--preset NAME and -o DIR are needed"),
        (["--preset", "ews-tiny", "--name", "2go"], r"name must be a letter and at most 63 letters, .* not '2go'"),
        (["--preset", "ews-tiny", "--name", "bit"], r"name must not be a keyword of SystemVerilog, as 'bit' is"),
        (
            ["--preset", "ews-tiny", "--set", *CHANGES.split()],
            r"name of the files must have at most 200 letters, not 214, as ews-tiny-H-256.*: give one \(--name\)",
        ),
        (["--preset", "ews-tiny", "--period", "-1"], r"period must be a positive number of nanoseconds, not -1"),
    ],
)
def test_bad_arguments(arguments, message, tmp_path, refused) -> None:
    folder = tmp_path / "out"
    assert re.search(message, refused(main, [*arguments, "-o", str(folder)]))
    assert not folder.exists()


def test_a_wrong_preset_is_named_before_a_missing_folder(capsys) -> None:
    for arguments, message in ((["--preset", "ews-17"], "unknown preset 'ews-17'"), (["--preset", "ews-16"], "-o DIR")):
        with pytest.raises(SystemExit):
            main(arguments)
        assert message in capsys.readouterr().err


def test_without_room_for_temporary_files_no_folder_is_left(tmp_path, capsys, monkeypatch) -> None:
    def none(*_: object, **options: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("hw.generate.generate", none)
    (tmp_path / "old").mkdir()
    for name in ("new/folder", "old"):
        with pytest.raises(SystemExit):
            main(["--preset", "ews-tiny", "-o", str(tmp_path / name)])
        assert "No usable temporary directory found" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_folder_that_cannot_be_made(tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stopped:
        main(["--preset", "ews-tiny", "-o", str(tmp_path / "file" / "out")])
    assert stopped.value.code == 2
    assert re.fullmatch(
        r"python -m hw\.generate: cannot write into '.*out': Not a directory\n", capsys.readouterr().err
    )
