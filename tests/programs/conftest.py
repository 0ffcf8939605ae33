"""Fixtures of the tests of programs."""

import pytest

from conservax.programs.host import calls


@pytest.fixture(scope="module")
def sparse_factors():
    """Sparse data keep sparse factors, however small they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls, "SMALL", 0)
        patch.setattr(calls, "FILLED", 2.0)
        yield
