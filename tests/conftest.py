"""Fixtures that every test may use."""

pytest_plugins = ["tests.support.google", "tests.support.sidecar", "tests.support.wire"]
