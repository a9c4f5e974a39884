"""Target validation: targets below the base path pass octet for octet, all others are refused."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.errors import NotFound, OcmError, UnsafeTarget
from ocm_wsgi.protocol.http.targets import Origin, api_target

BASE = "/backend-api/codex"


@pytest.mark.parametrize(
    "target",
    [
        "/v1/responses",
        "/v1/responses/",
        "/v1/responses?stream=true&x=%2F..%2f",
        "/v1/models?client_version=0.169.0",
        "/v1/models?",
        "/v1/models/ft:gpt-4o:acme::AbC",
        "/v1/models/org%2fmodel",
        "/v1/files/file-abc.jsonl",
        "/v1/files/..a",
        "/v1/files/a..b",
        "/v1/x?q=%zz&path=/../../etc",
        "/v1/x?a=b?c=d",
        "/v1/x;v=1",
        "/v1/%7Euser",
    ],
)
def test_api_target_passes_octet_for_octet(target: str) -> None:
    """A target below the base path reaches upstream as the client wrote it."""
    assert api_target(target).below(BASE) == BASE + target[len("/v1") :]


DOTS = ["..", ".", "%2e%2e", "%2E.", ".%2e", "...", "..;", "..;a=b", "%2e%2e;x", ". .", "..%20", "%2e%2e%20"]
OVERLONG = ["%c0%ae%c0%ae", "%e0%80%ae%e0%80%ae", "%c0%ae.", "%ef%bc%8e%ef%bc%8e", "%e2%80%a5"]
TWICE = ["%252e%252e", "%25252e%25252e", "%2%65%2%65", "%u002e%u002e", "%%32%65%%32%65"]
SLASHES = ["/", "%2f", "%2F", "%5c", "\\", "%c0%af", "%255c", "%252f", "//", "/./"]


@pytest.mark.parametrize("dots", DOTS + OVERLONG + TWICE)
@pytest.mark.parametrize("slash", SLASHES)
@pytest.mark.parametrize(
    "shape", ["/v1/{d}{s}conversations", "/v1/responses{s}{d}{s}{d}{s}conversations", "/v1/a{s}{d}"]
)
def test_api_target_refuses_dot_segments(dots: str, slash: str, shape: str) -> None:
    """No spelling of a dot segment passes, however encoded, doubled or mixed."""
    with pytest.raises(UnsafeTarget):
        api_target(shape.format(d=dots, s=slash))


@pytest.mark.parametrize(
    "target",
    [
        "/v1//responses",
        "/v1/responses//x",
        "/v1/responses/%2f",
        "/v1/a%2f%2fb",
        "/v1/a\\b",
        "/v1/a%5cb",
        "/v1/a%00b",
        "/v1/a%0d%0aHost:x",
        "/v1/a\x00b",
        "/v1/a b",
        "/v1/a\tb",
        "/v1/a\r\nb",
        "/v1/a%7fb",
        "/v1/..%23",
        "/v1/..%23/a",
        "/v1/a/..%3fb",
        "/v1/a%23b",
        "/v1/a%3Fb",
        "/v1/a%",
        "/v1/a%2",
        "/v1/a%zz",
        "/v1/a#b",
        "/v1/a?b#c",
        "/v1/a?b c",
        "/v1/a?b\r\nc",
        "/v1/\xe4",
        "/v1/%e4",
        "/v1/a?\xe4",
        '/v1/"x"',
        "/v1/<x>",
        "/v1/{x}",
        "/v1/a%25b",
    ],
)
def test_api_target_refuses_ambiguous_targets(target: str) -> None:
    """Doubled slashes, backslashes, control characters, broken and double encodings are refused."""
    with pytest.raises(UnsafeTarget):
        api_target(target)


@pytest.mark.parametrize(
    "target",
    ["/", "/v1", "/v1/", "/v1?x", "/v2/responses", "/V1/responses", "/%76%31/x", "//v1/x", "*", "", "v1/x", "x:80"],
)
def test_api_target_outside_the_api(target: str) -> None:
    """Outside /v1/ there is nothing."""
    with pytest.raises(NotFound):
        api_target(target)


def test_api_target_accepts_absolute_form_of_this_server() -> None:
    """Absolute-form is reduced to its path if it names the same host as the Host field."""
    assert api_target("http://OCM.example:8080/v1/models?x", host="ocm.example:8080").below("") == "/models?x"


@pytest.mark.parametrize("host", ["ocm.example", None, ""])
def test_api_target_refuses_absolute_form_of_another_server(host: str | None) -> None:
    """Absolute-form that names another server is refused."""
    with pytest.raises(UnsafeTarget):
        api_target("http://evil.example/v1/models", host=host)


def resolved(path: str) -> list[str]:
    """Return the segments a most lenient origin server might see: fully decoded, any slashes, dots resolved."""
    while (decoded := unquote(path, errors="replace")) != path:
        path = decoded
    kept: list[str] = []
    for segment in path.replace("\\", "/").split("/"):
        name = segment.split(";")[0].strip()
        if name == "..":
            kept = kept[:-1]
        elif name not in {"", "."}:
            kept.append(segment)
    return kept


PIECES = st.sampled_from(
    [
        *DOTS,
        *OVERLONG,
        *TWICE,
        *SLASHES,
        "a",
        "responses",
        "?",
        "#",
        ";",
        "%00",
        "\x00",
        "%",
        "&",
        "=",
        " ",
        "\t",
        "%09",
    ]
)


@given(st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join))
def test_api_target_never_leaves_the_base_path(rest: str) -> None:
    """Every valid target resolves to a path below the base, on any server."""
    try:
        target = api_target("/v1/" + rest)
    except OcmError:
        return
    sent = target.below(BASE)
    path, _, query = sent.partition("?")
    assert sent == BASE + "/" + rest
    assert resolved(path)[:2] == ["backend-api", "codex"]
    assert all("\x20" < character < "\x7f" for character in sent)
    assert "#" not in query


@pytest.mark.parametrize(
    ("url", "authority", "base_path"),
    [
        ("https://chatgpt.com/backend-api/codex", "chatgpt.com", "/backend-api/codex"),
        ("https://api.openai.com", "api.openai.com", ""),
        ("https://api.openai.com/", "api.openai.com", ""),
        ("http://127.0.0.1:8123/x/", "127.0.0.1:8123", "/x"),
        ("https://[::1]:8443", "[::1]:8443", ""),
        ("http://[::1]", "[::1]", ""),
        ("http://example.com:80", "example.com", ""),
        ("https://example.com:80", "example.com:80", ""),
    ],
)
def test_origin_parse(url: str, authority: str, base_path: str) -> None:
    """The authority omits the scheme's default port; the base path has no trailing slash."""
    origin = Origin.parse(url)
    assert (origin.authority, origin.base_path) == (authority, base_path)


def test_endpoint_is_decoded() -> None:
    """An endpoint is recognised in any encoding."""
    assert api_target("/v1/chat/%63ompletions/").endpoint == "chat/completions"
