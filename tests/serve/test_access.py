"""Pages of other sites, in the browser of somebody who runs a server, get nothing from it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from shvit.serve.access import name_in, own_names

from .conftest import RED, TOKEN, RunningServer, encoded, running


@pytest.fixture(scope="module")
def local(colour_model) -> Iterator[RunningServer]:
    options = ("--allowed-host", "Pictures.example", "--cors-origin", "https://friend.example")
    with running("--model", colour_model, *options, "--no-access-log") as server:
        yield server


def post(server: RunningServer, **headers: str) -> httpx2.Response:
    sent = {"Content-Type": "image/png", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return httpx2.post(f"{server.url}/v1/predict", content=encoded(RED), headers=sent, timeout=60)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost:{port}", 200),
        ("LOCALHOST", 200),
        ("localhost.", 200),
        ("[::1]:{port}", 200),
        ("pictures.example", 200),
        ("pictures.EXAMPLE:80", 200),
        ("attacker.example:{port}", 421),
        ("attacker.example", 421),
        ("localhost.attacker.example", 421),
        ("127.0.0.1.attacker.example", 421),
        ("attacker.example@localhost", 421),
        ("x", 421),
        ("192.0.2.1", 421),
        ("[2001:db8::1]", 421),
    ],
)
def test_the_host_is_one_of_the_servers_names(local, host, status):
    host = host.format(port=local.port)
    answer = post(local, Host=host)
    assert answer.status_code == status
    assert ("error" in answer.json()) == (status != 200)
    for path in ("/", "/v1/models", "/healthz", "/openapi.json"):
        assert httpx2.get(local.url + path, headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:{port}", 200),
        ("https://friend.example", 200),
        ("http://127.0.0.1:1", 403),
        ("http://127.0.0.1", 403),
        ("http://localhost:{port}", 403),
        ("https://attacker.example", 403),
        ("https://friend.example.attacker.example", 403),
        ("http://friend.example", 403),
        ("null", 403),
        ("http://[", 403),
        ("", 403),
    ],
)
def test_posts_are_from_the_servers_own_pages(local, origin, status):
    answer = post(local, Origin=origin.format(port=local.port))
    assert answer.status_code == status
    assert ("error" in answer.json()) == (status != 200)


def test_what_the_browser_says_of_the_sites_counts_behind_a_proxy(local):
    assert post(local, Origin="https://pictures.example", Host="pictures.example").status_code == 200
    assert post(local, Origin="https://public.example", Sec_Fetch_Site="same-origin").status_code == 200
    assert post(local, Origin="https://public.example", Sec_Fetch_Site="same-site").status_code == 403
    assert (
        post(local, Origin="https://public.example", Sec_Fetch_Site="same-origin", Host="evil.example").status_code
        == 421
    )


def test_all_answers_say_that_they_are_what_they_are(local):
    for answer in (
        post(local),
        post(local, Host="attacker.example"),
        post(local, Origin="https://attacker.example"),
        httpx2.get(local.url),
        httpx2.get(f"{local.url}/app.js"),
        httpx2.get(f"{local.url}/nothing"),
        httpx2.get(f"{local.url}/healthz"),
        httpx2.get(f"{local.url}/metrics"),
        httpx2.get(f"{local.url}/v1/predict"),
    ):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["content-security-policy"] == "frame-ancestors 'none'"


def test_with_a_token_any_name_and_site_may_ask(colour_model):
    with running("--model", colour_model, environment={"SHVIT_TOKEN": TOKEN}) as server:
        for scheme in ("Bearer", "bearer", "BEARER"):
            authorized = {
                "Authorization": f"{scheme} {TOKEN}",
                "Host": "any.example",
                "Origin": "https://other.example",
            }
            assert post(server, **authorized).status_code == 200
        for wrong in (f"Basic {TOKEN}", f"bearer {TOKEN.upper()}", "bearer", TOKEN):
            assert post(server, Authorization=wrong).status_code == 401


def test_one_that_listens_everywhere_goes_by_addresses_and_names_of_its_network():
    is_own = own_names("0.0.0.0", ())
    for host in ("192.0.2.7:8000", "[2001:db8::1]:8000", "shvit", "shvit:8000", "localhost", "[fe80::1%25eth0]"):
        assert is_own(name_in(host)), host
    for host in ("attacker.example", "10.0.0.1.attacker.example", "", "1.2.3.4.5"):
        assert not is_own(name_in(host)), host
    assert own_names("0.0.0.0", ("*",))("attacker.example")
    assert own_names("192.0.2.7", ())("192.0.2.7")
    assert not own_names("192.0.2.7", ())("192.0.2.8")
