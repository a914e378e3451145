"""Networks are captured without the lines of their source."""

from __future__ import annotations

import pytest
import torch.fx.config


@pytest.fixture(autouse=True)
def _no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals name lines, which the tests of the front end look at; finding them takes a twelfth of a fine-tuning."""
    monkeypatch.setattr(torch.fx.config, "do_not_emit_stack_traces", True, raising=False)
