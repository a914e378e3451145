"""What is said of where something is wrong."""

from __future__ import annotations

import pytest

from sw.compress.frontend.places import source_of_error
from sw.compress.methods import CompressError, Recipe


def test_an_error_of_this_package_is_placed_where_the_user_called_it() -> None:
    with pytest.raises(CompressError) as caught:
        Recipe("none such")
    place = source_of_error(caught.value)
    assert place.startswith("test_places.py:")
    assert 'Recipe("none such")' in place
