"""Fixtures that every test may use."""

from hypothesis import settings

# No test is judged by the time it takes: the machine may have other things to do.
settings.register_profile("sidecar", deadline=None)
settings.load_profile("sidecar")

pytest_plugins = [
    "tests.support.google",
    "tests.support.pooling",
    "tests.support.raw_endpoint",
    "tests.support.sidecar",
    "tests.support.stepped_clock",
    "tests.support.wire",
]
