"""Settings that every test shares: double precision inside a test, and hypothesis' budget."""

import hashlib
import os
import resource
from importlib.metadata import version
from pathlib import Path

# Compiling takes most of the time, and quick code is not needed here; XLA_FLAGS= tests what users run.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"
)

import jax
import pytest
from hypothesis import HealthCheck, settings

# A random program costs a compilation, so examples are few and deadlines would only measure XLA.
settings.register_profile(
    "default", deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def cache_directory() -> Path:
    """Where compiled programs are kept: the user's cache, by versions and flags."""
    made_by = version("jaxlib"), version("jax"), os.environ["XLA_FLAGS"]
    key = hashlib.sha256(repr(made_by).encode()).hexdigest()[:12]
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "conservax" / "tests" / key


# What one worker compiled serves the others, the next run, and the next clone.
jax.config.update("jax_compilation_cache_dir", str(cache_directory()))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

_ENOUGH = 6 << 20  # KiB that a worker may hold before what it compiled is dropped


@pytest.fixture(autouse=True)
def x64():
    """Tests compute in float64 unless they hand over float32; doctests keep JAX's default."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def release():
    """Where memory demands it, compiled programs of a module that is done make room."""
    yield
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > _ENOUGH:
        jax.clear_caches()
