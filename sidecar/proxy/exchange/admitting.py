"""Whether a request is admitted: first by its listener's rules, then by the route table.

Owns the one call that every codec makes before it starts an exchange, and the one for a tunnel.
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
    """Find the way of one request, or raise the SidecarError for the app.

    `owner` owns the listener it came through, `barred` is the error for a process that may not call there, and
    `absolute` says that the app uses the sidecar as its HTTP proxy. Removes from the request what only this listener
    should see.
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
    """The owner of the requests inside the tunnel that CONNECT asks for; raises the SidecarError for the app.

    The other arguments are those of `admit`; `target` is as received, `http10` says that it came in HTTP/1.0.
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
