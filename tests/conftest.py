"""Settings that every test shares: double precision inside a test, and hypothesis' budget."""

import os
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

# What one worker compiled serves the others, and the next run.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.fixture(autouse=True)
def x64():
    """Tests compute in float64 unless they hand over float32; doctests keep JAX's default."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def release():
    """Compiled programs of a module that is done are memory that nothing will use again."""
    yield
    jax.clear_caches()
