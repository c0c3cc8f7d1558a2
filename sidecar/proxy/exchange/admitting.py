"""Whether a request may come in: what its listener asks, then what the route table says.

Owns the one call by which every codec has a request judged before it makes an exchange of it, and the one for a tunnel.
"""

from __future__ import annotations

from sidecar.errors import Reason, SidecarError
from sidecar.net.listeners import Owner
from sidecar.proxy.admission.admission import Admitted
from sidecar.proxy.admission.tunnels import tunnel_to
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
        if owner.origin is not None:
            owner.origin.check(request.authority, absolute=absolute)
        if owner.is_judged:
            request.fields = owner.callers.without(request.fields)
        else:
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


def admit_tunnel(
    context: Context,
    owner: Owner,
    barred: SidecarError | None,
    request: RequestHead,
    target: bytes,
    *,
    http10: bool,
) -> Owner:
    """Whose the requests inside the tunnel are that CONNECT asks for; raises the SidecarError to answer with.

    The other arguments are as in `admit`; `target` is as it came, `http10` says that it came in HTTP/1.0.
    """
    if owner.origin is not None:
        raise SidecarError(
            Reason.METHOD_NOT_CARRIED,
            f"CONNECT came inside a tunnel to {owner.origin}. Open another connection for another tunnel.",
        )
    if owner.callers is not None:
        if barred is not None:
            raise barred
        request.fields = owner.callers.admit(request.fields)
    table = context.admission.table
    origin = tunnel_to(table, target, request.fields, request.found, own=owner.route, http10=http10)
    if origin.is_secure and owner.certificate is not None:
        raise SidecarError(
            Reason.METHOD_NOT_CARRIED,
            f"CONNECT asks for a tunnel to {origin}, and this listener speaks TLS itself: there is no TLS inside of "
            "TLS here. Use a listener without `tls` as the proxy.",
        )
    return owner.inside(origin, rules=context.admission)
