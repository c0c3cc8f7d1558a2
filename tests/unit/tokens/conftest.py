"""Fixtures of the token tests."""

from __future__ import annotations

from tests.support.raw_endpoint import raw

__all__ = ["raw"]
