import pytest

from conservax import reproduce

# Timings depend on the machine: the test of that experiment looks at its claims' shape only.
TIMED = "cheap-gradient"


@pytest.fixture(scope="session")
def report(tmp_path_factory):
    """One quick run of everything but the timings, shared by the tests of this folder."""
    out = tmp_path_factory.mktemp("reproduction")
    names = [e.name for e in reproduce.catalogue() if e.name != TIMED]
    return reproduce.run(names, out=out, quick=True, progress=lambda name, fraction: None)
