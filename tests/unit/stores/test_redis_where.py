"""Which servers a URL of the store names, and whom of several witnesses is believed."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from gateway.settings import SettingsError, from_environment
from gateway.stores.redis_url import parse_store_url
from gateway.stores.redis_where import Claim, ranked, read_view
from tests.support.certificates import Authority


def test_a_plain_url_names_one_server() -> None:
    for url, kind, host, port, db in (
        ("redis://", "server", "localhost", 6379, 0),
        ("redis://h", "server", "h", 6379, 0),
        ("redis://h:1/7", "server", "h", 1, 7),
        ("redis://h:1?db=3", "server", "h", 1, 3),
        ("valkey://[::1]:2/", "server", "::1", 2, 0),
        ("REDISS://h", "server", "h", 6379, 0),
        ("valkeys://h", "server", "h", 6379, 0),
    ):
        found = parse_store_url(url)
        (server,) = found.servers
        assert (found.kind, server.host, server.port, server.db) == (kind, host, port, db), url
        assert found.login == server
        assert (server.tls is not None) == (url.lower().startswith(("rediss", "valkeys"))), url
    socket = parse_store_url("unix:///run/redis.sock?db=2").login
    assert (socket.path, socket.db) == ("/run/redis.sock", 2)


def test_a_sentinel_url_names_sentinels_a_master_and_both_ways_in() -> None:
    found = parse_store_url(
        "redis+sentinel://ann:p%40s%2Cs@s1,s2:5,[2001:db8::1]:7/my%20master/4"
        "?sentinel_username=eve&sentinel_password=q%26r"
    )
    assert (found.kind, found.master) == ("sentinel", "my master")
    assert [s.place for s in found.servers] == [("s1", 26379), ("s2", 5), ("2001:db8::1", 7)]
    assert {(s.username, s.password, s.db) for s in found.servers} == {("eve", "q&r", 0)}
    assert (found.login.username, found.login.password, found.login.db) == ("ann", "p@s,s", 4)
    assert str(found) == "my master by s1:26379,s2:5,[2001:db8::1]:7"
    at = found.login.at("10.0.0.9", 6380)
    assert found.plain(at) == "redis://ann:p%40s%2Cs@10.0.0.9:6380/4"
    assert parse_store_url("redis+sentinel://:pw@s1/m").servers[0].password is None


def test_tls_reaches_the_sentinels_unless_it_is_switched_off_for_them() -> None:
    both = parse_store_url("rediss+sentinel://s1/m?ssl_check_hostname=false")
    assert both.encrypted
    assert both.servers[0].tls is both.login.tls
    assert both.login.tls is not None
    assert not both.login.tls.check_hostname
    assert both.login.tls.verify_mode is ssl.CERT_REQUIRED
    half = parse_store_url("rediss+sentinel://s1/m?sentinel_tls=false")
    assert half.login.tls is not None
    assert half.servers[0].tls is None
    assert not half.encrypted
    assert "sentinel" not in half.plain(half.login)


def test_a_cluster_url_names_nodes() -> None:
    found = parse_store_url("rediss+cluster://:pw@n1:7000,n2/0?ssl_cert_reqs=none")
    assert found.kind == "cluster"
    assert [server.place for server in found.servers] == [("n1", 7000), ("n2", 6379)]
    assert {server.password for server in found.servers} == {"pw"}
    assert found.login.tls is not None
    assert found.login.tls.verify_mode is ssl.CERT_NONE
    assert str(found) == "cluster n1:7000,n2:6379"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "no URL"),
        ("localhost:6379", "no URL"),
        ("http://h", "got 'http'"),
        ("redis+sentinal://h/m", "got 'redis+sentinal'"),
        ("redis://a,b", "several hosts"),
        ("redis://h/db", "the database is no number"),
        ("redis://h/1/2", "the database is no number"),
        ("redis://h:0", "a port is no number"),
        ("redis://h:70000", "a port is no number"),
        ("redis://:S3CRET/x@h", "percent-encode"),
        ("redis://[::1", "brackets"),
        ("redis://h?socket_timeout=soon", "socket_timeout: expected seconds from 0.05 to 5"),
        ("redis+cluster://h?socket_timeout=60", "socket_timeout: expected seconds from 0.05 to 5"),
        ("redis://h?socket_connect_timeout=nan", "socket_connect_timeout: expected seconds from 0.1 to 30"),
        ("unix:///s?db=1&socket_timeout=-1", "socket_timeout: expected"),
        ("redis://h?db=x", "Invalid value for 'db'"),
        ("redis+sentinel://h:1", "the master's name is missing"),
        ("redis+sentinel://h:1/0", "the master's name is missing"),
        ("redis+sentinel://h,,i/m", "a host is missing"),
        ("redis+sentinel:///m", "a host is missing"),
        ("redis+cluster://", "a host is missing"),
        ("redis+cluster://a,b:x", "a port is no number"),
        ("rediss://h?ssl_ca_cert=x", "unknown option 'ssl_ca_cert'"),
        ("redis://h?sentinel_password=S3CRET", "unknown option 'sentinel_password'"),
        ("rediss://h?ssl_ca_certs=/no/such/file", "ssl_ca_certs cannot be read: No such file"),
        ("rediss://h?ssl_certfile=/no/such/file", "ssl_certfile and ssl_keyfile cannot be used: No such"),
        ("rediss://h?ssl_min_version=5", "ssl_min_version"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused_without_its_secrets(url: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_store_url(url)
    assert said in str(caught.value)
    assert "S3CRET" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["redis://h/2", "rediss+sentinel://h/m/2", "redis+cluster://h/0", "unix:///run/redis.sock?db=2"]
)
def test_time_outs_are_of_the_store_and_not_of_a_server(url: str) -> None:
    plain = parse_store_url(url)
    assert (plain.timeout_s, plain.connect_timeout_s) == (None, None)
    more = f"{url}{'&' if '?' in url else '?'}socket_timeout=1.5&socket_connect_timeout=4"
    found = parse_store_url(more)
    assert (found.timeout_s, found.connect_timeout_s) == (1.5, 4)
    assert found.plain(found.login) == plain.plain(plain.login)
    assert (found.login.db, found.kind) == (plain.login.db, plain.kind)


def test_settings_say_what_is_wrong_with_the_store(tmp_path: Path) -> None:
    common = {
        "GATEWAY_SECRET_KEY": "k" * 32,
        "GATEWAY_ADMIN_TOKEN": "t" * 32,
        "GATEWAY_DATA_DIR": str(tmp_path),
    }
    for url in (
        "redis+sentinel://s1,s2:1/m",
        "redis+cluster://n1,n2",
        "rediss://h",
        "unix:///run/redis.sock",
    ):
        from_environment({**common, "GATEWAY_STORE_URL": url}).check()
    with pytest.raises(SettingsError, match="--store: the master's name is missing"):
        from_environment({**common, "GATEWAY_STORE_URL": "redis+sentinel://:S3CRET@s1"}).check()


def test_certificates_are_loaded(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ours = authority.issue("client")
    found = parse_store_url(
        f"rediss://h?ssl_ca_certs={authority.certificate}&ssl_certfile={ours.certificate}&ssl_keyfile={ours.key}"
        "&ssl_min_version=772"
    )
    assert found.login.tls is not None
    assert found.login.tls.minimum_version is ssl.TLSVersion.TLSv1_3
    assert [each["subject"] for each in found.login.tls.get_ca_certs()] == [
        ((("commonName", "test authority"),),)
    ]


def test_the_newest_knowledge_is_believed_before_the_many() -> None:
    old, new = ("a", 1), ("b", 1)
    assert ranked([Claim(old, 3), Claim(old, 3), Claim(new, 4)]) == [new, old]
    assert ranked([Claim(old, 0), Claim(new, 0), Claim(new, 0)]) == [new, old]
    assert ranked([Claim(old, 5), Claim(new, 5), Claim(new, 4), Claim(old, 1)]) in ([old, new], [new, old])
    assert ranked([]) == []


def test_a_view_of_a_cluster_is_read_whatever_endpoints_it_names() -> None:
    slots = [
        [0, 99, [b"10.0.0.1", 7000, b"id1", []], [b"10.0.0.4", 7003, b"id4", []]],
        [100, 199, [None, 7001, b"id2"]],
        [200, 299, [b"?", 7002, b"id3"]],
        [300, 16383, [b"", 7004, b"id5"]],
    ]
    nodes = (
        b"id1 10.0.0.1:7000@17000,host master - 0 0 7 connected 0-99\n"
        b"id2 10.0.0.2:7001@17001 myself,master - 0 0 12 connected 100-199\n\nodd line\n"
    )
    view = read_view(slots, nodes, "asked")
    assert view.epoch == 12
    assert view.owner(0) == view.owner(99) == ("10.0.0.1", 7000)
    assert (view.owner(100), view.owner(250), view.owner(16383)) == (
        ("asked", 7001),
        ("asked", 7002),
        ("asked", 7004),
    )
    assert view.nodes == (
        ("10.0.0.1", 7000),
        ("asked", 7001),
        ("asked", 7002),
        ("asked", 7004),
        ("10.0.0.4", 7003),
    )
    assert read_view([], b"", "asked").owner(5) is None
    assert read_view(slots, Exception("NOPERM"), "asked").epoch == 0


def test_a_reply_that_makes_no_sense_is_no_view() -> None:
    for slots in ([[0]], [[b"x", 1, [b"h", 1]]], [[0, 1, [b"h"]]], [[0, 1, [b"h", b"port"]]], [5]):
        with pytest.raises((TypeError, ValueError, IndexError)):
            read_view(slots, b"", "asked")
    assert read_view(None, b"", "asked").owners == ()
    assert read_view([], b"a b c d e f not-a-number\n\xff", "asked").epoch == 0
