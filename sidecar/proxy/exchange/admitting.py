"""Whether a request may come in: what its listener asks, then what the route table says.

Owns the one call by which every codec has a request judged before it makes an exchange of it.
"""

from __future__ import annotations

from sidecar.errors import SidecarError
from sidecar.net.listeners import Owner
from sidecar.proxy.admission.admission import Admitted
from sidecar.proxy.exchange.context import Context
from sidecar.proxy.messages import RequestHead


def admit(
    context: Context, owner: Owner, barred: SidecarError | None, request: RequestHead, *, absolute: bool
) -> Admitted:
    """The way of one request; raises the SidecarError to answer with.

    `owner` is of the listener it came by, `barred` what a process is answered that may not call there, and `absolute`
    says that the app uses the sidecar as its HTTP proxy. Takes out of the request what only callers and this listener
    should know.
    """
    if owner.callers is not None:
        if barred is not None:
            raise barred
        request.fields = owner.callers.admit(request.fields)
    return context.admission.admit(
        request.fields,
        request.found,
        method=request.method,
        authority=request.authority,
        path=request.path,
        absolute=absolute,
        own=owner.route,
        local_socket=owner.is_unix,
        scheme=owner.origin_scheme,
    )
