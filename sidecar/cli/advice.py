"""What each reason means for people, and what they can do: what `help REASON` prints, and the hand-written half of docs/errors.md."""

from sidecar.errors import Reason
from sidecar.proxy.refusals.diagnosis import Cause

ADVICE: dict[Reason, str] = {
    Reason.MALFORMED_REQUEST: "The answer's `detail` says what was wrong with the bytes. Speak plain HTTP/1.1 to the "
    "sidecar, not TLS and not HTTP/2. The connection is closed, since what follows can't be trusted.",
    Reason.BAD_HOST: "HTTP/1.1 wants exactly one well-formed `Host`. Beside an absolute target, as an HTTP proxy gets it, it may "
    "name anything: the target's own host counts.",
    Reason.HEADER_CONFLICT: "The route puts the token where the app has put something of its own. Set the route's "
    "`on_conflict` to `replace` (the token wins) or `keep` (the app's wins, and no token is sent), or move the token "
    "with `header`. See [headers](headers.md).",
    Reason.CALLER_REFUSED: "`detail` says which rule it was. A browser made the request for a page of another site, or the "
    "Host is none that this listener serves: both are how a web page would try to use your identity. If it is wanted, set "
    "`allow_cross_site: true` on the route, or add the name to its `host` list. Or the [listener](listeners.md) asks for a "
    "header (`require_header`), or lets only some users call (`peers`).",
    Reason.NO_ROUTE: "Nothing in the route table takes this host, so nothing was sent. Compare it with the route's "
    "`host`, or call the route's own URL, which `idtoken-sidecar urls` shows. The answer names the nearest route; where the "
    "app asked for `localhost`, it lists the URL of each.",
    Reason.PATH_AMBIGUOUS: "The route has `allow.paths`, and the path has something that programs read differently: an "
    "escaped slash, a dot segment, an empty segment, an escape of an escape; `detail` says which. See [allow](allow.md).",
    Reason.NOT_ALLOWED: "The route has an `allow` that does not list this method or path, so nothing was sent; `detail` "
    "names the key. See [allow](allow.md).",
    Reason.HEAD_TIMEOUT: "The app opened a request and did not finish its head within `limits.head_timeout`.",
    Reason.BODY_TIMEOUT: "No byte of the body came for `limits.body_timeout`, though more was announced.",
    Reason.TARGET_TOO_LONG: "Path and query are longer than `limits.target`. Send large inputs as a body.",
    Reason.HEAD_TOO_LARGE: "The head is larger than `limits.head`, or has more lines than `limits.headers`. Mostly "
    "cookies. Google's front ends refuse heads over 64 KiB or so as well.",
    Reason.EXPECTATION_FAILED: "Only `Expect: 100-continue` exists.",
    Reason.METHOD_NOT_CARRIED: "CONNECT: an encrypted tunnel can't be given a token; ask for `http://…` and the sidecar "
    "will speak https to the service. TRACE: its answer would show the token. OPTIONS: with `Max-Forwards: 0` it is for "
    "the sidecar itself. Others: not HTTP/1.1 methods.",
    Reason.CODING_NOT_CARRIED: "A single `Transfer-Encoding: chunked` is carried. Compress with `Content-Encoding`.",
    Reason.LOOP: "The route's `upstream` leads back to this sidecar. Point it at the service.",
    Reason.CLIENT_GONE: "The app closed its connection first. If that is unexpected, its own timeout is shorter than "
    "the service's answer takes.",
    Reason.CLIENT_STALLED: "The answer had begun and the app took nothing of it for `limits.send_timeout`: it hangs, or "
    "is gone without a word. Its connection was broken off, and the upstream's.",
    Reason.DNS_FAILED: "Check the spelling of `upstream`, and what `getent hosts` says on this machine. With Private "
    "Service Connect, that the zone for run.app is attached to this network.",
    Reason.DNS_TIMEOUT: "The resolver did not answer. Check `/etc/resolv.conf` and network policies for port 53. `detail` names "
    "the key that sets the limit: `timeouts.dns`, or `timeouts.connect` for the whole.",
    Reason.ADDRESS_FORBIDDEN: "Every address that the name resolves to is one that a token is never sent to: a metadata "
    "server, link-local, multicast or unspecified, the sidecar itself, loopback without the upstream saying so, or a "
    "private one where the route says `allow_private: false`; `detail` names each. Somebody may have tampered with DNS.",
    Reason.CONNECT_REFUSED: "Nothing listens at that address and port. Where `detail` says how long ago that was, this "
    "request was not dialled for: after three failures in a row there is one try at a time, and a pause of a quarter of a "
    "second at most between two.",
    Reason.CONNECT_FAILED: "The network says the address can't be reached: routes, VPC connector, firewall.",
    Reason.CONNECT_TIMEOUT: "Packets vanish: mostly a firewall or a missing VPC egress. Longer paths: raise "
    "`timeouts.connect`.",
    Reason.TLS_TIMEOUT: "TCP connected, and then the other side did not finish the handshake. Mostly something between "
    "that takes connections and does not pass them on, or a service under load. `detail` names the key that sets the "
    "limit: `timeouts.tls`, or `timeouts.connect` for the whole.",
    Reason.TLS_CERTIFICATE_EXPIRED: "`detail` has the certificate's end and this machine's time. Either the certificate "
    "was not renewed, or this machine's clock is wrong (containers have their host's). Verification can't be switched off.",
    Reason.TLS_CERTIFICATE_NOT_YET_VALID: "Mostly this machine's clock is behind; `detail` has both times.",
    Reason.TLS_WRONG_NAME: "`detail` has the name that was asked for and those in the certificate. If the service is "
    "reached by another name than its certificate has, set the route's `tls.server_name`; else somebody else answers.",
    Reason.TLS_SELF_SIGNED: "Trust exactly this certificate by setting the route's `tls.ca_file` to its PEM file. "
    "Verification can't be switched off.",
    Reason.TLS_UNKNOWN_CA: "`detail` has the issuer. For a private CA set the route's `tls.ca_file`, or the top-level `ca_file`, to its certificate. "
    "Where it is a public one, the server mostly does not send its intermediate certificates: browsers find them by "
    "themselves, other clients don't.",
    Reason.TLS_BAD_CHAIN: "A certificate above the server's own is no CA, may not have another below it, is not the one "
    "that signed, or uses a key or digest that is too weak; `detail` says which. The service's owner has to mend it.",
    Reason.TLS_REVOKED: "The route's `tls.crl_file` lists the certificate, or a CA above it. Do not go on with it: its "
    "key may be in other hands. The service needs a new certificate.",
    Reason.TLS_CRL_UNUSABLE: "`tls.crl_file` has no list of the CA that issued the certificate, or an old one. Put the "
    "current list of each CA in the chain there (`tls.crl_check: leaf` wants that of the certificate's own CA only); the "
    "file is read again when it changes.",
    Reason.TLS_CERTIFICATE: "A reason that is rarer than those above; `detail` has it in OpenSSL's words.",
    Reason.TLS_PROTOCOL_TOO_OLD: "The service speaks only TLS 1.1 or older, which RFC 8996 has ended. Update it, or put a "
    "front end before it.",
    Reason.TLS_NO_COMMON_CIPHER: "Both speak TLS, and have no cipher suite, group or kind of signature in common. "
    "Ciphers of this machine: `openssl ciphers -v`.",
    Reason.TLS_CLIENT_CERTIFICATE_MISSING: "Set the route's `tls.client_cert_file` and `tls.client_key_file` (mutual TLS).",
    Reason.TLS_CLIENT_CERTIFICATE_REFUSED: "The other side does not know its CA, or it is expired or revoked; the alert "
    "says which. A new one is used as soon as the files change.",
    Reason.TLS_ALERT: "The other side ended the handshake with the alert that `detail` names. `unrecognized_name`: it "
    "knows no such host: set the route's `tls.server_name`. `internal_error`: look into its own log.",
    Reason.TLS_NOT_SPOKEN: "What came is no TLS: mostly plain HTTP. Use the port that speaks TLS, or `http://` in "
    "`upstream`.",
    Reason.TLS_CLOSED: "The connection ended before the handshake did. Load balancers do so when no backend is there, "
    "firewalls when they don't like the name.",
    Reason.TLS_RENEGOTIATION: "A TLS 1.2 server asked for a new handshake in mid-connection, mostly to get a client "
    "certificate for some paths only. That is refused: TLS 1.3 knows it no longer (RFC 8446 section 4.1.2). Have it ask at the "
    "beginning of the connection.",
    Reason.TLS_FAILED: "None of the known ways to fail; `detail` has OpenSSL's word for it.",
    Reason.TLS_FILES: "`detail` names the key, or the variable such as SSL_CERT_FILE, the file and what is wrong with it. A file that turns bad while the "
    "sidecar runs does no harm: what was read before stays in use, and the log says so.",
    Reason.EGRESS_PROXY_UNREACHABLE: "`detail` says whether its name, its port or the network is the matter. Check that it runs, and "
    "`egress_proxy`; an upstream that needs no proxy goes into `egress_proxy.except`.",
    Reason.EGRESS_PROXY_TIMEOUT: "`timeouts.connect` is for all of it: resolving the proxy's name, connecting to it, and its way to the "
    "upstream. Mostly the proxy can't reach the upstream, and says so later; its log tells.",
    Reason.EGRESS_PROXY_AUTHENTICATION: "It answered 407. Write its user name and password into the URL, by `${VAR}` and escaped as in a URL. "
    "Only Basic is spoken: for Negotiate, NTLM or Digest put a proxy such as cntlm between.",
    Reason.EGRESS_PROXY_DENIED: "It answered 403 or another 4xx: have its administrator allow CONNECT to this host and port. Squid allows port 443 "
    "alone unless it is told otherwise.",
    Reason.EGRESS_PROXY_FAILED: "It answered 5xx: it could not resolve or reach the upstream from where it stands. Its log, or `curl -x`, tells more.",
    Reason.EGRESS_PROXY_MALFORMED: "What answered at that port is no HTTP proxy, or it closed the connection, or it sent something before the tunnel was used. "
    "Check the port in `egress_proxy`.",
    Reason.UPSTREAM_CLOSED: "The connection ended before an answer began. Idempotent requests on a reused connection "
    "were tried once more already. If it recurs, the service crashes on this request, or its keep-alive time is below "
    "`pool.idle`.",
    Reason.UPSTREAM_MALFORMED: "Nothing of it was used; `detail` says what was wrong. Mostly another protocol on that port.",
    Reason.UPSTREAM_HEAD_TOO_LARGE: "It is larger than `limits.head`, or has more lines than `limits.headers`. Mostly "
    "cookies. Or its `Connection` names more than 64 headers.",
    Reason.UPSTREAM_INCOMPLETE: "The app's connection was broken off too, so that it can tell. Look at the service's own "
    "log.",
    Reason.UPGRADE_FAILED: "It answered 101 with another protocol than the app's `Upgrade` names, or to a request without "
    "one. Nothing was passed on.",
    Reason.RESPONSE_TIMEOUT: "It had the whole request, and the head of its answer did not come within the route's "
    "`timeouts.response`. Or its machine, or the network to it, is gone: it acknowledged nothing for `timeouts.connect`; "
    "`detail` says which. Cloud Run's own limit is the service's request timeout.",
    Reason.SEND_TIMEOUT: "The service took nothing of the request, or of an upgraded connection's bytes, for the route's "
    "`timeouts.send`: it hangs, or the network to it does.",
    Reason.TUNNEL_IDLE: "Nothing moved on a WebSocket or the like for the route's `timeouts.tunnel_idle`. Send pings more "
    "often than that, or raise it.",
    Reason.TOTAL_TIMEOUT: "The route's `timeouts.total` was over before the answer was complete, whatever it waited for: "
    "a token, a connection, the service.",
    Reason.IDLE_TIMEOUT: "The answer had begun and then nothing moved for `timeouts.idle`. For streams with long "
    "silences raise it, or send keep-alive comments.",
    Reason.CREDENTIAL_NOT_FOUND: "The file, the command or the login that the credential names is not there; `detail` "
    "names it. `idtoken-sidecar check` says what each credential found.",
    Reason.CREDENTIAL_INVALID: "`detail` names the file and what is missing in it. A key that every user of the "
    "machine can read is refused too, unless `allow_world_readable` is set.",
    Reason.CREDENTIAL_MISMATCH: "The credential has no such token, whoever asks: a person's login has none for an "
    "audience of its own, a federated identity none at all without a service account. `detail` says what would do; "
    "[targets](targets.md) has the whole table.",
    Reason.SELF_IMPERSONATION: "The chain from `source` through `delegates` to `service_account` names one account "
    "twice. A leaked token of such an account could renew itself for ever, so it is refused. Use the account's own "
    "credential, without `impersonate`.",
    Reason.REAUTHENTICATION_NEEDED: "A person's: the organisation's session length is up, the password "
    "changed, or it was revoked. Log in again with the command in `detail`; no restart is needed. Machines are better "
    "off with a service account.",
    Reason.SUBJECT_TOKEN_FAILED: "Workload identity federation: the provider gave none, or Google's Security Token Service "
    "did not take it. `detail` says which; compare the provider's issuer, audience "
    "and attribute condition with the token's claims.",
    Reason.GCLOUD_FAILED: "Run the command in `detail` by hand: what it says is not copied "
    "into logs, since it can hold secrets.",
    Reason.CLOCK_OFF: "Google refused a signed assertion for its time: set this machine's clock right (NTP). Containers "
    "have their host's clock.",
    Reason.TOKEN_TIMEOUT: "Where it is the metadata server: the node is under load, or a network policy drops packets to "
    "169.254.169.254.",
    Reason.TOKEN_ENDPOINT_UNREACHABLE: "Nothing answers. On GKE the metadata server needs some seconds after a pod "
    "starts: the sidecar goes on trying. Outside of Google Cloud there is none: use another type of credential.",
    Reason.TOKEN_ENDPOINT_FAILED: "It answered with a server error. The sidecar goes on trying, and serves live tokens "
    "meanwhile.",
    Reason.TOKEN_RATE_LIMITED: "The sidecar does (Retry-After). Many sidecars on one node that start at once share its "
    "limit.",
    Reason.TOKEN_DENIED: "The key was deleted or disabled, its account is gone, or the provider of a workload identity pool "
    "is disabled or deleted; `detail` says which. On a metadata server: the Workload Identity binding is missing.",
    Reason.IMPERSONATION_DENIED: "Or there is no such account: Google may answer both alike. Run the command in `detail`; a new grant takes some minutes.",
    Reason.API_DISABLED: "Enable iamcredentials.googleapis.com with the command in `detail`, in the project of the "
    "*caller*.",
    Reason.SCOPE_INSUFFICIENT: "A Compute Engine instance was made with narrow access scopes. Stop it, give it the scope "
    "cloud-platform, start it; on GKE it is the node pool's setting, and Workload Identity makes it unnecessary.",
    Reason.QUOTA_PROJECT_DENIED: "The login names a project for quotas that it may not use. Grant "
    "`roles/serviceusage.serviceUsageConsumer` on it, or choose another.",
    Reason.NO_SERVICE_ACCOUNT: "The instance has no service account, or the Kubernetes one is not bound to a Google "
    "one. Attach one, or bind it (`roles/iam.workloadIdentityUser`).",
    Reason.TOKEN_MALFORMED: "What came is no JWT: often a captive portal or a proxy answering in Google's place.",
    Reason.TOKEN_WRONG_AUDIENCE: "So it was thrown away. Something between here and the token endpoint is wrong.",
    Reason.TOKEN_NO_EXPIRY: "Nobody could say how long to use it, so it was thrown away.",
    Reason.TOKEN_INVALID: "Its beginning or its end is no number, it ends before it begins, it lives for more than ten years, or "
    "it begins more than a day from now by this machine's clock. `detail` has both times: check that clock, then what "
    "answers at the token endpoint, or who made the token.",
    Reason.TOKEN_EXPIRED: "Or has so little time left that it can't be used. This machine's clock is ahead, or the endpoint's "
    "cache is stale.",
    Reason.DRAINING: "Try another instance.",
    Reason.OVERLOADED: "Requests of wildcard routes want tokens for more audiences at a time than `token_cache`. Try again; "
    "if so many targets are meant, raise it.",
    Reason.QUEUE_FULL: "All `pool.connections` of the route are busy and `pool.queue` requests wait already. Mostly the "
    "service has become slow: look at its latency first. `Retry-After` says how long the queue takes at present.",
    Reason.QUEUE_TIMEOUT: "The request waited `pool.queue_wait` for one of the route's `pool.connections`, and all were "
    "busy. The service is too slow for this load, or the limit too low for it.",
    Reason.NO_DESCRIPTORS: "Each connection takes a file descriptor, and the process (or the machine: `detail` says which) had "
    "none left to connect with: nothing was sent, and the other side is not to blame. Raise the limit of open files "
    "(`ulimit -n`, `LimitNOFILE=` of a systemd unit, `nofile` of a container), or lower `limits.connections` and the routes' "
    "`pool.connections` to what fits; at start a log line says what does.",
    Reason.TUNNEL_LIMIT: "`limits.tunnels` connections are upgraded already, or are about to be. Raise it, or find out why "
    "they stay open: `idtoken_sidecar_tunnels` has them by route.",
    Reason.INTERNAL: "Its log has the traceback (`fault`). Please report it.",
}
"""Complete: a test holds that every reason is here."""

CAUSES: dict[Cause, str] = {
    Cause.AUDIENCE_REFUSED: "The token's `aud` is not the target's. The log names both where they are known.",
    Cause.TOKEN_REFUSED: "The target does not take the token: audience, kind or issuer. Cloud Run answers all three alike.",
    Cause.TOKEN_TOO_OLD: "Expired, or not valid yet, by the target's clock: set the clocks right.",
    Cause.TOKEN_UNSEEN: "The target saw no token: a proxy between takes the header off, or it reads another one.",
    Cause.PERMISSION_MISSING: "The caller lacks the target's role. Cloud Run answers the same where it saw no token.",
    Cause.EMAIL_MISSING: "IAP wants an e-mail in the token. The sidecar's own tokens have one; ready ones may not.",
    Cause.ISSUER_REFUSED: "The API's configuration names another issuer (`x-google-issuer`).",
    Cause.SCOPE_MISSING: "The access token lacks a scope: the route's `scopes`, or the instance's access scopes.",
    Cause.API_NOT_ENABLED: "The API is not enabled in the caller's project.",
    Cause.HIDDEN: "Google's front end answered 404: ingress settings, VPC Service Controls, or no such service.",
    Cause.ANOTHER_SIDECAR: "It looks like an answer of the sidecar's own and is none: another sidecar at the target made it, or "
    "something imitates one. Don't run a command that it names.",
    Cause.REDIRECTED: "The target leads to another host, which gets no token. Said by `check --online` only.",
    Cause.SIGN_IN: "What answered wants somebody to sign in: Identity-Aware Proxy, Google's sign-in, a captive portal. But "
    "for Identity-Aware Proxy's redirect, said by `check --online` only.",
    Cause.UNEXPLAINED: "None of the known ways to refuse a token: mostly the app's own 401 or 403. Logged at INFO.",
}
"""Complete, like `ADVICE`."""
