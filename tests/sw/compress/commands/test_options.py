"""What commands write replaces nothing that they read."""

from __future__ import annotations

from pathlib import Path

import pytest

from msvq.__main__ import main
from tests.refusals import Refused, refusals


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory of images, one of checkpoints, and weights."""
    monkeypatch.chdir(tmp_path)
    for folder in ("data/train/cat", "data/val/cat", "data/notes", "elsewhere", "kept", "other"):
        Path(folder).mkdir(parents=True)
    Path("data/val/dog").symlink_to(Path("elsewhere").absolute())
    for name in ("data/train/cat/1.png", "data/val/dog/2.JPG", "data/train/cat/net.msvq", "data/notes/3.png"):
        Path(name).write_bytes(b"image")
    Path("kept/sparse.pt").write_bytes(b"weights")


@refusals(
    """
    -o data/train/cat/1.png -> cannot write 'data/train/cat/1.png': it would replace an image of --data 'data'
    -o new --json data/val/dog/2.JPG -> cannot write 'data/val/dog/2.JPG': it would replace an image of --data 'data'
    -o elsewhere/2.JPG -> cannot write 'elsewhere/2.JPG': it would replace an image of --data 'data'
    -o kept/finetune.pt --work kept -> cannot write 'kept/finetune.pt': it is a file of the command's own
    -o new --rest ./kept/job.json --work kept -> cannot write './kept/job.json': it is a file of the command's own
    -o new --weights kept/sparse.pt --work kept -> cannot write 'kept/sparse.pt': it would replace 'kept/sparse.pt'
    """
)
def test_what_is_read_is_not_replaced(arguments: list[str], message: str, refused: Refused) -> None:
    assert message in refused(main, ["finetune", "nowhere:Net", "--data", "data", *arguments])


@refusals(
    """
    -o data/train/cat/net.msvq --work kept -> cannot import nowhere
    -o data/net.msvq --json data/train/cat/2.png -> cannot import nowhere
    -o data/notes/3.png -> cannot import nowhere
    -o kept/net.msvq --work kept --weights other/sparse.pt -> cannot import nowhere
    """
)
def test_what_is_not_read_may_lie_beside_it(arguments: list[str], message: str, refused: Refused) -> None:
    assert message in refused(main, ["finetune", "nowhere:Net", "--data", "data", *arguments])


@pytest.mark.parametrize(
    "command",
    [
        ["check", "nowhere:Net", "--json"],
        ["calibrate", "nowhere:Net", "-o"],
        ["search", "nowhere:Net", "--bytes", "9", "-o"],
        ["evaluate", "net.msvq", "--json"],
    ],
)
def test_every_command_that_reads_images_keeps_them(command: list[str], refused: Refused) -> None:
    given = [*command, "data/train/cat/1.png", "--data", "data"]
    assert "it would replace an image of --data 'data'" in refused(main, given)
