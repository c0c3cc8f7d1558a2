"""The applications that give tokens to programs, by their key in the configuration.

Called by `service`, which loads it only if the configuration has one of the keys.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import assert_never

from sidecar.config.handouts import GoogleTokenEndpoints, Handout, MetadataServer, TokenEndpoint
from sidecar.handout import google, metadata, oauth
from sidecar.handout.desk import Desk
from sidecar.handout.google import GoogleApp
from sidecar.handout.metadata import MetadataApp
from sidecar.handout.oauth import TokenApp
from sidecar.handout.offer import Offer
from sidecar.net.callers import Callers
from sidecar.runtime.clock import Clock
from sidecar.serving.site import Site

App = MetadataApp | TokenApp | GoogleApp


def make(
    it: Handout,
    desk: Desk,
    clock: Clock,
    project: str | None,
    sockets: Sequence[socket.socket],
) -> tuple[App, Site]:
    """The application for `it`, on bound listeners. Call `adopt` before the site starts. `project` is the one that
    the environment names.
    """
    app: App
    match it:
        case MetadataServer():
            app, takes = MetadataApp(desk, clock, project), metadata.TAKES
        case TokenEndpoint():
            app, takes = TokenApp(desk), oauth.TAKES
        case GoogleTokenEndpoints():
            app, takes = GoogleApp(desk, clock), google.TAKES
        case _:
            assert_never(it)
    return app, Site(app.app, sockets, clock, takes)


def adopt(app: App, offer: Offer, it: Handout, peers: Callers | None) -> None:
    """Make it use `it` from now on; `offer` and `peers` come from `it`."""
    if isinstance(app, MetadataApp) and isinstance(it, MetadataServer):
        app.adopt(offer, it, peers)
    elif isinstance(app, TokenApp) and isinstance(it, TokenEndpoint):
        app.adopt(offer, it, peers)
    elif isinstance(app, GoogleApp):
        app.adopt(offer, peers)
