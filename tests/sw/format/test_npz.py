"""Archives of arrays."""

from __future__ import annotations

import io

import numpy as np
import pytest

from sw.format.npz import ArchiveError, read_npz, write_npz


def test_any_names_come_back(tmp_path) -> None:
    arrays = {"file": np.arange(3), "allow_pickle": np.zeros((2, 0)), "a/b": np.array(1.5), "": np.ones(1, np.int8)}
    path = tmp_path / "x.npz"
    with path.open("wb") as file:
        write_npz(file, arrays)
    found = read_npz(path)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert read_npz(path, ["file"]).keys() == {"file"}
    with pytest.raises(ArchiveError, match=r"array 'b' is missing; the archive has file, allow_pickle, a/b, $"):
        read_npz(path, ["b"])


def test_what_is_refused(tmp_path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(b"PK")
    with pytest.raises(ArchiveError, match="not an archive of arrays"):
        read_npz(path)
    buffer = io.BytesIO()
    np.save(buffer, np.arange(3))
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ArchiveError, match="must be an archive of arrays, not an array"):
        read_npz(path)
    np.savez(path, x=np.array([{}], object))
    with pytest.raises(ArchiveError, match="Object arrays cannot be loaded"):
        read_npz(path)
    np.savez_compressed(path, x=np.zeros(1 << 27, np.uint8))
    with pytest.raises(ArchiveError, match="must hold at most 67108864 bytes, unpacked, not 1342178"):
        read_npz(path)
    np.savez_compressed(path, x=np.zeros(1 << 25, np.uint8))
    assert read_npz(path)["x"].size == 1 << 25
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "missing.npz")
