"""sidecar.net.interception: the CAs of a configuration, and what apps are to trust"""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path

import pytest
from cryptography import x509

from sidecar.config.load import load
from sidecar.net.interception import InterceptError, Interception, Prepared
from sidecar.routing.routes import RouteTable
from sidecar.runtime.trust import for_upstreams
from tests.support import openssl
from tests.support.clock import FakeClock


def config_of(tmp_path: Path, hosts: str, group: str = "") -> tuple[RouteTable, object]:
    """A route for each host; those with `!` in front don't intercept."""
    routes = "".join(
        f"- {{name: r{number}, host: '{host.removeprefix('!')}', upstream: 'http://localhost:{number + 1}', "
        f"audience: a, intercept: {'false' if host.startswith('!') else 'true'}}}\n"
        for number, host in enumerate(hosts.split())
    )
    text = f"routes:\n{routes}intercept: {group or f'{{bundle_file: {tmp_path}/bundle.pem}}'}\n"
    config = load(text, environ={}).config
    return RouteTable.compile(config), config.intercept


class House:
    """An interception that gets configurations."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.clock = FakeClock()
        self.interception = Interception(self.clock)

    def prepare(self, hosts: str, group: str = "", **environ: str) -> tuple[Prepared, RouteTable]:
        table, intercept = config_of(self.tmp_path, hosts, group)
        return self.interception.prepare(intercept, table, environ), table  # type: ignore[arg-type]

    def take(self, hosts: str, group: str = "", **environ: str) -> Prepared:
        prepared, table = self.prepare(hosts, group, **environ)
        self.interception.adopt(prepared, table)
        return prepared

    def trusted(self) -> list[x509.Certificate]:
        """What the bundle holds of ours, which comes first."""
        end = "-----END CERTIFICATE-----\n"
        blocks = (self.tmp_path / "bundle.pem").read_text().split(end)[:-1]
        loaded = (x509.load_pem_x509_certificate((block + end).encode()) for block in blocks)
        return list(takewhile(lambda it: "idtoken-sidecar" in it.subject.rfc4514_string(), loaded))

    def permitted(self) -> list[list[str]]:
        """The names that each CA of the bundle may speak for."""
        found = []
        for certificate in self.trusted():
            value = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
            found.append([name.value for name in value.permitted_subtrees or ()])
        return found


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_the_bundle_has_our_ca_and_the_systems(house: House) -> None:
    """Ours may speak for the hosts of routes that intercept, and for no others."""
    house.take("a.example !b.example *.c.example")
    assert house.permitted() == [["a.example", "c.example"]]
    text = (house.tmp_path / "bundle.pem").read_text()
    for pem in for_upstreams({}).certificates():
        assert pem in text
    assert "PRIVATE" not in text


def test_googles_token_endpoints_are_permitted_where_they_are_answered(house: House) -> None:
    """Beside the routes' hosts, without any route too; and no other name of Google's."""
    group = f"{{bundle_file: {house.tmp_path}/bundle.pem}}\ngoogle_token_endpoints: {{audiences: [a]}}"
    three = [f"{name}.googleapis.com" for name in ("iamcredentials", "oauth2", "sts")]
    house.take("a.example !b.example", group)
    assert house.permitted() == [["a.example", *three]]
    assert house.interception.answers(three[0])
    assert not house.interception.answers("a.example")
    house.take("!b.example", group)
    assert house.permitted()[0][-3:] == three


def test_what_a_variable_has_this_process_trust_is_in_it(house: House) -> None:
    """As the app would trust it without the bundle."""
    theirs = house.tmp_path / "theirs.pem"
    theirs.write_bytes(openssl.authority("theirs").pem)
    house.take("a.example", SSL_CERT_FILE=str(theirs))
    assert theirs.read_text() in (house.tmp_path / "bundle.pem").read_text()


def test_hosts_that_are_added_get_a_ca_of_their_own(house: House) -> None:
    """The first one stays, so that apps which have read the bundle go on; what nobody needs any more is forgotten."""
    house.take("a.example b.example")
    (first,) = house.trusted()
    house.take("a.example b.example c.example")
    assert house.permitted() == [["a.example", "b.example"], ["c.example"]]
    assert house.trusted()[0] == first
    house.take("c.example")
    assert house.permitted() == [["c.example"]]


def test_another_group_begins_anew(house: House) -> None:
    """As one with another file does."""
    house.take("a.example")
    (first,) = house.trusted()
    other = f"{{bundle_file: {house.tmp_path}/other.pem}}"
    house.take("a.example", other)
    (house.tmp_path / "other.pem").rename(house.tmp_path / "bundle.pem")
    assert house.trusted() != [first]


def test_what_is_not_served_leaves_the_bundle_as_it_was(house: House) -> None:
    """A configuration that fails after this was prepared."""
    house.take("a.example")
    before = (house.tmp_path / "bundle.pem").read_text()
    house.prepare("b.example")
    assert (house.tmp_path / "bundle.pem").read_text() != before
    house.interception.restore({})
    assert (house.tmp_path / "bundle.pem").read_text() == before


def test_without_hosts_there_is_no_ca_and_no_bundle(house: House) -> None:
    """Nobody would be shown anything."""
    house.take("!a.example")
    assert house.interception.bundle_file is None
    assert list(house.tmp_path.iterdir()) == []


def test_a_ca_of_ones_own(house: House) -> None:
    """Its root is in the bundle; that it is not constrained is said."""
    root = openssl.authority("root")
    files = _files(house.tmp_path, root)
    house.clock.step_wall(-house.clock.wall() + root.certificate.not_valid_before_utc.timestamp() + 86400)
    prepared = house.take("a.example", f"{{bundle_file: {house.tmp_path}/bundle.pem, {files}}}")
    assert root.pem in (house.tmp_path / "bundle.pem").read_bytes()
    assert "no name constraint" in prepared.warnings[0]
    (reading,) = house.interception.readings()
    assert reading.expires_at == root.certificate.not_valid_after_utc.timestamp()
    house.interception.context_of("a.example")


def _files(directory: Path, ca: openssl.Issued, mode: int = 0o600) -> str:
    openssl.write(directory / "ca.pem", ca.pem)
    openssl.write(directory / "ca.key", ca.key_pem).chmod(mode)
    return f"ca_cert_file: {directory}/ca.pem, ca_key_file: {directory}/ca.key"


def test_what_cannot_be_used_is_said(house: House) -> None:
    """By its key, its file and why; nothing is written."""
    root = openssl.authority("root")
    own = f"{{bundle_file: {house.tmp_path}/bundle.pem}}"
    cases = [
        (f"{{{_files(house.tmp_path, root, 0o644)}}}", {}, "every user of this machine can read it"),
        (
            "{ca_cert_file: /none/ca.pem, ca_key_file: /none/ca.key}",
            {},
            "`ca_cert_file` (/none/ca.pem): No such",
        ),
        ("{bundle_file: /none/bundle.pem}", {}, "`bundle_file` (/none/bundle.pem): No such file"),
        (own, {"SSL_CERT_FILE": f"{house.tmp_path}/bundle.pem"}, "SSL_CERT_FILE of this process names it"),
        (own, {"SSL_CERT_FILE": "/none/ca.pem"}, "SSL_CERT_FILE cannot be used"),
    ]
    for group, environ, words in cases:
        with pytest.raises(InterceptError) as raised:
            house.prepare("a.example", group, **environ)
        assert words in str(raised.value), raised.value
    assert not (house.tmp_path / "bundle.pem").exists()


def test_a_directory_that_is_for_everybody_is_warned_of(house: House) -> None:
    """Somebody could have the app trust anybody."""
    house.tmp_path.chmod(0o777)
    prepared = house.take("a.example")
    assert "every user of this machine can put another file" in prepared.warnings[0]


def test_few_hosts_are_kept(house: House) -> None:
    """Of a wildcard's, as many as an app calls at once; a context serves until its certificate is renewed."""
    house.take("*.a.example")
    first = house.interception.context_of("h0.a.example")
    assert house.interception.context_of("h0.a.example") is first
    for number in range(1, 300):
        house.interception.context_of(f"h{number}.a.example")
    assert house.interception.context_of("h0.a.example") is not first
    last = house.interception.context_of("h299.a.example")
    house.clock.advance(8 * 3600 + 1)
    assert house.interception.context_of("h299.a.example") is not last


def test_a_clock_that_is_set_back_gets_another_certificate(house: House) -> None:
    """What was made later is not good yet."""
    house.take("a.example")
    first = house.interception.context_of("a.example")
    house.clock.step_wall(-7200)
    assert house.interception.context_of("a.example") is not first
