"""What each reason means and what you can do about it: the text of `help REASON`, and the hand-written half of
docs/errors.md.
"""

from sidecar.errors import Reason
from sidecar.proxy.refusals.diagnosis import Cause

ADVICE: dict[Reason, str] = {
    Reason.MALFORMED_REQUEST: "The answer's `detail` says what was wrong with the bytes. Speak plain HTTP to the "
    "sidecar, not TLS, unless its listener has a certificate. The connection is closed, since what follows can't be trusted.",
    Reason.TOO_MANY_FRAMES: "Its HTTP/2 connection was ended: PINGs, SETTINGS, resets or empty frames came by the thousand, "
    "and few requests with them. Healthy clients don't do that: find the program that does.",
    Reason.BAD_HOST: "An HTTP/1.1 request has exactly one well-formed `Host`. In a request to an HTTP proxy, the host "
    "of the URL counts, and `Host` may name anything.",
    Reason.HEADER_CONFLICT: "The route puts the token where the app has put something of its own. Set the route's "
    "`on_conflict` to `replace` (the token wins) or `keep` (the app's wins, and no token is sent), or move the token "
    "with `header`. See [headers](headers.md).",
    Reason.CALLER_REFUSED: "`detail` says which rule it was. Either a browser made the request for a page of another "
    "site, or this listener does not serve the Host: a web page could try to use your identity in these ways. If you "
    "want such calls, set `allow_cross_site: true` on the route, or add the name to its `host` list. Or the "
    "[listener](listeners.md) requires a header (`require_header`), or lets only some users call (`peers`).",
    Reason.NO_ROUTE: "No route has this host, so nothing was sent. Compare the host with the route's `host`, or call "
    "the route's own URL, which `idtoken-sidecar urls` shows. The answer names the nearest route. Where the app asked "
    "for `localhost`, it lists the URL of each. If the route is new, `idtoken-sidecar healthcheck` says whether the "
    "changed configuration can be used. See [ways in](ways-in.md).",
    Reason.PATH_AMBIGUOUS: "The route has `allow.paths`, and programs read this path in different ways, because of an "
    "escaped slash, a dot segment, an empty segment or a double escape; `detail` says which. See [allow](allow.md).",
    Reason.NOT_ALLOWED: "The route has an `allow` that does not list this method or path, so nothing was sent; `detail` "
    "names the key. See [allow](allow.md).",
    Reason.HEAD_TIMEOUT: "The app opened a request and did not finish its head within `limits.head_timeout`.",
    Reason.BODY_TIMEOUT: "No byte of the body came for `limits.body_timeout`, although the request announced more.",
    Reason.TARGET_TOO_LONG: "Path and query are longer than `limits.target`. Send large inputs as a body.",
    Reason.HEAD_TOO_LARGE: "The head is larger than `limits.head`, or has more lines than `limits.headers`. Cookies "
    "are the usual cause. Google's front ends also refuse heads over about 64 KiB.",
    Reason.EXPECTATION_FAILED: "HTTP has only `Expect: 100-continue`; the app sent another expectation.",
    Reason.METHOD_NOT_CARRIED: "CONNECT to port 443: the sidecar can't add a token inside an encrypted tunnel, unless the "
    "route says `intercept: true`; call `http://…`, and the sidecar speaks https to the service. TRACE: its answer would show the token. OPTIONS with `Max-Forwards: "
    "0` is for the sidecar itself. Others are not HTTP/1.1 methods.",
    Reason.CODING_NOT_CARRIED: "Only one `Transfer-Encoding: chunked` is forwarded. To compress, use "
    "`Content-Encoding`.",
    Reason.LOOP: "The route's `upstream` leads back to this sidecar. Point it at the service.",
    Reason.CLIENT_GONE: "The app closed its connection first. If you did not expect that, its timeout is shorter than "
    "the time that the service needs.",
    Reason.CLIENT_STALLED: "The answer had begun, and the app read nothing of it for `limits.send_timeout`: it hangs, "
    "or its machine is gone. The sidecar closed its connection and the upstream's.",
    Reason.DNS_FAILED: "Check the spelling of `upstream`, and what `getent hosts` says on this machine. With Private "
    "Service Connect, check that the zone for run.app is attached to this network.",
    Reason.DNS_TIMEOUT: "The resolver did not answer. Check `/etc/resolv.conf` and network policies for port 53. `detail` names "
    "the key that sets the limit: `timeouts.dns`, or `timeouts.connect` for the whole.",
    Reason.ADDRESS_FORBIDDEN: "The name resolves only to addresses that never get a token; `detail` names each. Such addresses are "
    "metadata servers, link-local, multicast and unspecified ones, and the sidecar itself. Loopback is one unless "
    "the upstream names it, and so are private addresses if the route says `allow_private: false`. Somebody may have "
    "tampered with DNS.",
    Reason.CONNECT_REFUSED: "Nothing listens at that address and port. If `detail` says how long ago that was, there "
    "was no new try for this request: after three failures in a row the sidecar makes one try at a time, a quarter of "
    "a second apart at most.",
    Reason.CONNECT_FAILED: "The network says that the address can't be reached. Check routes, the VPC connector and "
    "firewalls.",
    Reason.CONNECT_TIMEOUT: "Packets get no answer, usually because of a firewall or a missing VPC egress. If the way "
    "is just long, raise `timeouts.connect`.",
    Reason.TLS_TIMEOUT: "TCP connected, but the other side did not finish the handshake. Usually a device in between "
    "accepts connections and does not pass them on, or the service is under load. `detail` names the key that sets "
    "the "
    "limit: `timeouts.tls`, or `timeouts.connect` for the whole.",
    Reason.TLS_CERTIFICATE_EXPIRED: "`detail` has the certificate's end and this machine's time. Either the certificate "
    "was not renewed, or this machine's clock is wrong (containers have their host's). Verification can't be switched off.",
    Reason.TLS_CERTIFICATE_NOT_YET_VALID: "Usually this machine's clock is slow; `detail` has both times.",
    Reason.TLS_WRONG_NAME: "`detail` has the name that was asked for and those in the certificate. Either "
    "another server answers at that address: check `upstream` and DNS. Or the service has a new certificate, or one for another "
    "name: have it issued for this name, or set the route's `tls.server_name` to one that it has.",
    Reason.TLS_SELF_SIGNED: "Trust exactly this certificate by setting the route's `tls.ca_file` to its PEM file. "
    "Verification can't be switched off.",
    Reason.TLS_UNKNOWN_CA: "`detail` has the issuer. For a private CA set the route's `tls.ca_file`, or the top-level `ca_file`, to its certificate. "
    "If it is a public CA, the server usually does not send its intermediate certificates. Browsers find these by "
    "themselves, other clients don't.",
    Reason.TLS_BAD_CHAIN: "A certificate above the server's own is not a CA, may not have another CA below it, has not "
    "signed it, or uses a key or digest that is too weak; `detail` says which. The service's owner has to fix it.",
    Reason.TLS_REVOKED: "The route's `tls.crl_file` lists the certificate, or a CA above it. Don't use it any more: "
    "somebody else may have its key. The service needs a new certificate.",
    Reason.TLS_CRL_UNUSABLE: "`tls.crl_file` has no list of the CA that issued the certificate, or an old one. Put the "
    "current list of each CA in the chain there (`tls.crl_check: leaf` wants that of the certificate's own CA only); the "
    "file is read again when it changes.",
    Reason.TLS_CERTIFICATE: "The reason is rarer than those above; `detail` has it in OpenSSL's words.",
    Reason.TLS_PROTOCOL_TOO_OLD: "The service speaks only TLS 1.1 or older, which RFC 8996 has ended. Update it, or "
    "put a newer front end in front of it.",
    Reason.TLS_NO_COMMON_CIPHER: "Both sides speak TLS, but have no cipher suite, group or kind of signature in "
    "common. "
    "Ciphers of this machine: `openssl ciphers -v`.",
    Reason.TLS_CLIENT_CERTIFICATE_MISSING: "Set the route's `tls.client_cert_file` and `tls.client_key_file` (mutual TLS).",
    Reason.TLS_CLIENT_CERTIFICATE_REFUSED: "The other side does not know the CA of your certificate, or the "
    "certificate is expired or revoked; the alert says which. The sidecar uses a new one as soon as the files "
    "change.",
    Reason.TLS_ALERT: "The other side ended the handshake with the alert that `detail` names. `unrecognized_name`: it "
    "knows no such host: set the route's `tls.server_name`. `internal_error`: look into its own log.",
    Reason.TLS_NOT_SPOKEN: "The answer was not TLS, usually plain HTTP. Use the port that speaks TLS, or `http://` in "
    "`upstream`.",
    Reason.TLS_CLOSED: "The connection ended before the handshake did. Load balancers do this when they have no "
    "backend, and firewalls when they block the name.",
    Reason.TLS_RENEGOTIATION: "A TLS 1.2 server asked for a new handshake in mid-connection, usually to get a client "
    "certificate for some paths only. The sidecar refuses that: TLS 1.3 does not have it any more (RFC 8446 section "
    "4.1.2). Make the server ask at the beginning of the connection.",
    Reason.TLS_FAILED: "The failure is of no known kind; `detail` has OpenSSL's words.",
    Reason.TLS_FILES: "`detail` names the key, or the variable such as SSL_CERT_FILE, the file and what is wrong with "
    "it. If a file becomes unusable while the sidecar runs, the sidecar goes on with what it read before, and logs "
    "that.",
    Reason.EGRESS_PROXY_UNREACHABLE: "`detail` says whether the cause is its name, its port or the network. Check "
    "that it runs, and "
    "`egress_proxy`; if the upstream needs no proxy, add it to `egress_proxy.except`.",
    Reason.EGRESS_PROXY_TIMEOUT: "`timeouts.connect` covers resolving the proxy's name, connecting to it, and the "
    "proxy's own connection to the upstream. Usually the proxy can't reach the upstream; see its log.",
    Reason.EGRESS_PROXY_AUTHENTICATION: "It answered 407. Write its user name and password into the URL, by `${VAR}` and escaped as in a URL. "
    "The sidecar speaks Basic only: for Negotiate, NTLM or Digest put a proxy such as cntlm in between.",
    Reason.EGRESS_PROXY_DENIED: "It answered 403 or another 4xx: ask its administrator to allow CONNECT to this host "
    "and port. By default Squid allows port 443 only.",
    Reason.EGRESS_PROXY_FAILED: "It answered 5xx: it could not resolve or reach the upstream. Its log, or `curl -x`, "
    "tells more.",
    Reason.EGRESS_PROXY_MALFORMED: "What answered at that port is no HTTP proxy, or it closed the connection, or it sent something before the tunnel was used. "
    "Check the port in `egress_proxy`.",
    Reason.UPSTREAM_CLOSED: "The connection ended before an answer began. The sidecar has already tried idempotent "
    "requests on a reused connection a second time. If it happens often, the service crashes on this request, or its "
    "keep-alive time is shorter than `pool.idle`.",
    Reason.UPSTREAM_MALFORMED: "The sidecar used nothing of it; `detail` says what was wrong. Usually that port speaks "
    "another protocol.",
    Reason.UPSTREAM_HEAD_TOO_LARGE: "It is larger than `limits.head`, or has more lines than `limits.headers` "
    "(cookies are the usual cause), or its `Connection` names more than 64 headers.",
    Reason.UPSTREAM_INCOMPLETE: "The sidecar closed the app's connection too, so that the app can see it. Look at the "
    "service's log.",
    Reason.UPSTREAM_RESET: "It sent RST_STREAM for this request, with the error code in `detail`; other requests on the "
    "connection go on. A request that it has refused unread (REFUSED_STREAM) was sent once more already. Look at the "
    "service's log.",
    Reason.UPSTREAM_NO_HTTP2: "Over TLS it did not agree on HTTP/2 (ALPN), or without TLS it answered in HTTP/1. gRPC needs "
    "HTTP/2 all the way: on Cloud Run, name the container's port `h2c`. For anything else leave the route's `protocol` at "
    "`auto`.",
    Reason.UPGRADE_FAILED: "It answered 101 with another protocol than the app's `Upgrade` names, or to a request without "
    "one. Nothing was passed on.",
    Reason.DEADLINE_EXCEEDED: "The call came with a `grpc-timeout`, and nobody waits for its answer any more. The service "
    "was told how much of it was left. Raise the deadline in the app, or find out why the service is slow.",
    Reason.RESPONSE_TIMEOUT: "It had the whole request, and the head of its answer did not come within the route's "
    "`timeouts.response`. Or its machine or the network is gone, because it acknowledged nothing for "
    "`timeouts.connect`; `detail` says which. Cloud Run's own limit is the service's request timeout.",
    Reason.SEND_TIMEOUT: "The service took nothing of the request, or of an upgraded connection's bytes, for the route's "
    "`timeouts.send`: it hangs, or the network to it does.",
    Reason.TUNNEL_IDLE: "A WebSocket or another upgraded connection had no traffic for the route's "
    "`timeouts.tunnel_idle`. Send pings more often, or raise it.",
    Reason.TOTAL_TIMEOUT: "The route's `timeouts.total` was over before the answer was complete, whatever it waited for: "
    "a token, a connection, the service.",
    Reason.IDLE_TIMEOUT: "The answer had begun, and then no byte came for `timeouts.idle`. For streams with long "
    "pauses raise it, or send keep-alive comments.",
    Reason.CREDENTIAL_NOT_FOUND: "The file, the command or the login that the credential names is not there; `detail` "
    "names it. `idtoken-sidecar check` says what each credential found.",
    Reason.CREDENTIAL_INVALID: "`detail` names the file and what is missing in it. A key that every user of the "
    "machine can read is refused too, unless `allow_world_readable` is set.",
    Reason.CREDENTIAL_MISMATCH: "This type of credential can't give such a token: a person's login gives none for an "
    "audience of your choice, and a federated identity gives no ID token without a service account. `detail` says "
    "which credentials can; [targets](targets.md) has the whole table.",
    Reason.SELF_IMPERSONATION: "The chain from `source` through `delegates` to `service_account` names one account "
    "twice. The sidecar refuses that, because a leaked token of such an account could be renewed forever. Use the "
    "account's own "
    "credential, without `impersonate`.",
    Reason.REAUTHENTICATION_NEEDED: "A person's login has ended: the organisation's session length is over, the "
    "password changed, or the login was revoked. Log in again with the command in `detail`; you don't need to "
    "restart. On servers use a service account.",
    Reason.SUBJECT_TOKEN_FAILED: "Workload identity federation: the provider gave no subject token, or Google's "
    "Security Token Service did not accept it. `detail` says which; compare the provider's issuer, audience "
    "and attribute condition with the token's claims.",
    Reason.GCLOUD_FAILED: "Run the command in `detail` by hand. Its output is not copied into logs, because it can "
    "hold secrets.",
    Reason.CLOCK_OFF: "Google refused a signed assertion because of its time. Set this machine's clock (NTP); "
    "containers have their host's clock.",
    Reason.TOKEN_TIMEOUT: "`detail` says which endpoint it was; the sidecar keeps trying. If it was the metadata server, "
    "the node is under load, or a network policy drops packets to 169.254.169.254. `curl --header 'Metadata-Flavor: Google' "
    "http://169.254.169.254/` on the same machine or pod shows which. If it was another one, check the network and HTTPS_PROXY.",
    Reason.TOKEN_ENDPOINT_UNREACHABLE: "Nothing answers. On GKE the metadata server needs some seconds after a pod "
    "starts: the sidecar keeps trying. Outside Google Cloud there is no metadata server: use another type of "
    "credential.",
    Reason.TOKEN_ENDPOINT_FAILED: "It answered with a server error. The sidecar keeps trying, and uses live tokens "
    "meanwhile.",
    Reason.TOKEN_RATE_LIMITED: "The sidecar waits (Retry-After) and tries again. Many sidecars that start on one node "
    "at the same time share its limit.",
    Reason.TOKEN_DENIED: "The key was deleted or disabled, its account is gone, or the provider of a workload identity pool "
    "is disabled or deleted; `detail` says which. On a metadata server: the Workload Identity binding is missing.",
    Reason.IMPERSONATION_DENIED: "Or the account does not exist: Google gives the same answer. Run the command in "
    "`detail`; a new grant takes some minutes.",
    Reason.API_DISABLED: "Enable iamcredentials.googleapis.com with the command in `detail`, in the project of the "
    "*caller*.",
    Reason.SCOPE_INSUFFICIENT: "A Compute Engine instance was made with narrow access scopes. Stop it, give it the scope "
    "cloud-platform, start it; on GKE it is the node pool's setting, and Workload Identity makes it unnecessary.",
    Reason.QUOTA_PROJECT_DENIED: "The login names a project for quotas that it may not use. Grant "
    "`roles/serviceusage.serviceUsageConsumer` on it, or choose another.",
    Reason.NO_SERVICE_ACCOUNT: "The instance has no service account, or the Kubernetes one is not bound to a Google "
    "one. Attach one, or bind it (`roles/iam.workloadIdentityUser`).",
    Reason.TOKEN_MALFORMED: "The answer was not a JWT. Often a captive portal or a proxy answers in Google's place.",
    Reason.TOKEN_WRONG_AUDIENCE: "The sidecar does not use it. Something between here and the token endpoint is "
    "wrong.",
    Reason.TOKEN_NO_EXPIRY: "Without an expiry the sidecar can't know how long to use it, so it does not.",
    Reason.TOKEN_INVALID: "Its start or its end is not a number, it ends before it starts, it is valid for more than ten "
    "years, or it starts more than a day from now by this machine's clock. `detail` has both times: check the clock, "
    "then what answers at the token endpoint, or what made the token.",
    Reason.TOKEN_EXPIRED: "Or it expires too soon to be used. This machine's clock is ahead, or the endpoint's cache "
    "is stale.",
    Reason.DRAINING: "Try another instance.",
    Reason.OVERLOADED: "Requests of wildcard routes want tokens for more audiences at a time than `token_cache`. Try "
    "again. If you need that many targets, raise it.",
    Reason.QUEUE_FULL: "All `pool.connections` of the route are busy and `pool.queue` requests wait already. Usually "
    "the service has become slow: look at its latency first. `Retry-After` says how long requests wait at the "
    "moment.",
    Reason.QUEUE_TIMEOUT: "The request waited `pool.queue_wait` for one of the route's `pool.connections`, and all were "
    "busy. The service is too slow for this load, or the limit is too low.",
    Reason.NO_DESCRIPTORS: "Each connection takes a file descriptor, and the process (or the machine: `detail` says which) had "
    "none left to connect with: nothing was sent. Raise the limit of open files "
    "(`ulimit -n`, `LimitNOFILE=` of a systemd unit, `nofile` of a container), or lower `limits.connections` and the routes' "
    "`pool.connections` to what fits: a log line at start says how many.",
    Reason.TUNNEL_LIMIT: "`limits.tunnels` connections are upgraded already. Raise it, or find out why they stay "
    "open: `idtoken_sidecar_tunnels` counts them by route.",
    Reason.INTERNAL: "Its log has the traceback (`fault`). Please report it.",
}
"""Complete: a test checks that every reason is here."""

CAUSES: dict[Cause, str] = {
    Cause.AUDIENCE_REFUSED: "The token's `aud` is not the target's; the log names both where they are known. Set the "
    "route's `audience` to the one that the target expects.",
    Cause.TOKEN_REFUSED: "The target does not accept the token: its audience, kind or issuer. Cloud Run answers all "
    "three in the same way. `idtoken-sidecar token ROUTE --claims` shows what the token has; [targets](targets.md) "
    "says what each target accepts.",
    Cause.TOKEN_TOO_OLD: "The token is expired, or not valid yet, by the target's clock. Set this machine's "
    "clock (`timedatectl set-ntp true`), then fetch new tokens with `idtoken-sidecar renew`.",
    Cause.TOKEN_UNSEEN: "The target saw no token: a proxy in between removes the header, or the target reads another "
    "one.",
    Cause.PERMISSION_MISSING: "The caller lacks the target's role. The log line `target refused a request` and the status "
    "page have the command that grants it; a new grant takes some minutes. Cloud Run gives the same answer if it saw "
    "no token.",
    Cause.EMAIL_MISSING: "IAP requires an e-mail in the token. Tokens that the sidecar fetches have one; those of "
    "`file` and `static` may not.",
    Cause.ISSUER_REFUSED: "The API's configuration names another issuer (`x-google-issuer`). Set it to the one in the "
    "log line.",
    Cause.SCOPE_MISSING: "The access token lacks a scope: the route's `scopes`, or the instance's access scopes.",
    Cause.API_NOT_ENABLED: "The API is not enabled in the caller's project. The log line has the command that enables it.",
    Cause.HIDDEN: "Google's front end answered 404: the service's ingress settings or VPC Service Controls hide it "
    "from this network, or there is no such service, or Google keeps the path to itself (`/healthz`). The log line has "
    "the command that shows the ingress settings.",
    Cause.ANOTHER_SIDECAR: "The answer looks like the sidecar's own but is not: another sidecar at the target made "
    "it, or a program imitates one. Don't run a command that it names.",
    Cause.REDIRECTED: "The target redirects to another host, which gets no token. Only `check --online` reports "
    "this.",
    Cause.SIGN_IN: "The answer is a sign-in page: of Identity-Aware Proxy, Google, or a captive portal. Apart from "
    "Identity-Aware Proxy's redirect, only `check --online` reports this.",
    Cause.UNEXPLAINED: "No known reason fits. Usually it is the app's own 401 or 403. Logged at INFO.",
}
"""Complete, like `ADVICE`."""

WHOSE: dict[str, tuple[str, str]] = {
    "adc": (
        "what Application Default Credentials find: one of the files below, else the metadata server",
        "everywhere; the default",
    ),
    "metadata": (
        "the attached service account, or another one of the instance",
        "Compute Engine, GKE, Cloud Run, functions, App Engine, Cloud Build",
    ),
    "impersonate": (
        "a service account that another credential may act as, through delegates if need be",
        "everywhere",
    ),
    "workload_identity_federation": (
        "an identity of AWS, GitHub Actions or another provider, which may act as a service account",
        "outside Google Cloud",
    ),
    "service_account_key": ("the key's account", "where none of the above is available"),
    "user": ("a person, by `gcloud auth application-default login`", "a laptop"),
    "gcloud": (
        "the person who is logged in to gcloud, or a service account that this person may act as",
        "a laptop",
    ),
    "file": ("a token in a file that another program renews", "Kubernetes, Vault"),
    "static": ("a literal token", "tests"),
}
"""Each type of credential: whose tokens it gives, and where it works."""
