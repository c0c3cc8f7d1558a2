"""A source of tokens that is nothing but its name, for keys of tests that ask a grant or an endpoint by themselves."""

from __future__ import annotations

from sidecar.tokens.token import Token, TokenKey, TokenSource


class NamedSource:
    """The same name is the same source. A test that has a store ask it sets what is `behind` it."""

    def __init__(self, name: str, behind: TokenSource | None = None) -> None:
        self.name = name
        self.behind = behind

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NamedSource) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"<NamedSource {self.name}>"

    async def mint(self, key: TokenKey) -> Token:
        """See `TokenSource`."""
        assert self.behind is not None, f"nothing is behind {self.name}"
        return await self.behind.mint(key)

    def describe(self) -> str:
        """See `TokenSource`."""
        return "a test's"
