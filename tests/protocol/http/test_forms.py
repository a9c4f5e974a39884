"""Reading fields of forms, and refusing forms that are ambiguous."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.protocol.http.forms import FormError, MultipartReader, parameters_of, urlencoded_fields

NAMES = ("model",)
PART = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ngpt-5\r\n'
FILE = (
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\nRIFF\r\n'
)
END = b"--b--\r\n"


def read(body: bytes, size: int = 65536, content_type: str = "multipart/form-data; boundary=b") -> dict[str, str]:
    reader = MultipartReader(parameters_of(content_type)[1], NAMES)
    for start in range(0, len(body), size):
        reader.feed(body[start : start + size])
    return reader.finish()


@pytest.mark.parametrize("size", [1, 3, 65536])
@pytest.mark.parametrize(
    "body",
    [
        PART + END,
        PART + b"--b--",
        FILE + PART + END,
        PART + FILE + END,
        PART + PART + END,
        PART.replace(b"\r\n\r\n", b"\r\nContent-Type: text/plain; charset=UTF-8\r\nContent-Length: 5\r\n\r\n") + END,
        PART.replace(b"disposition", b"DISPOSITION").replace(b'; name="', b';name="') + END,
        FILE.replace(b"RIFF", b"-" * 100 + b"\r\n-\r\n--\r\n--B--a") + PART + END,
        FILE.replace(b"RIFF", b"") + PART + END,
    ],
)
def test_multipart(body: bytes, size: int) -> None:
    """The field is found wherever it is, in pieces of any size."""
    assert read(body, size) == {"model": "gpt-5"}


@pytest.mark.parametrize("size", [1, 65536])
@pytest.mark.parametrize(
    "body",
    [
        PART,
        PART + b"--b",
        PART + b"--b-",
        b'{"model":"gpt-5"}\r\n' + PART + END,
        b"\r\n" + PART + END,
        PART + END + b"x",
        PART + END + PART + END,
        PART + PART.replace(b"gpt-5", b"o3") + END,
        PART.replace(b"\r\n", b"\n") + END,
        PART + b"--b \r\n" + END,
        PART + b"--bb\r\n" + END,
        FILE.replace(b"RIFF", b"x--b") + PART + END,
        FILE.replace(b"RIFF", b'\n--b\nContent-Disposition: form-data; name="model"\n\no3') + PART + END,
        pytest.param(
            FILE.replace(b"RIFF", b'x\n--b\r\nContent-Disposition: form-data; name="model"\r\n\r\no3') + END,
            id="line-feed-delimiter",
        ),
        PART.replace(b'"model"', b'"model"; filename="m"') + END,
        PART.replace(b'"model"', b'"model"; name="x"') + END,
        PART.replace(b'"model"', b"\"x\"; name*=utf-8''model") + END,
        PART.replace(b'"model"', b'"Model"') + END,
        PART.replace(b'"model"', b'" model"') + END,
        PART.replace(b'"model"', b'"model[]"') + END,
        PART.replace(b'"model"', b'"mo\\del"') + END,
        PART.replace(b"form-data;", b"form-data; x;") + END,
        PART.replace(b"form-data", b"attachment") + END,
        PART.replace(b"\r\n\r\n", b'\r\nContent-Disposition: form-data; name="x"\r\n\r\n') + END,
        PART.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n") + END,
        PART.replace(b"\r\n\r\n", b"\r\nContent-Type: text/plain; charset=utf-16\r\n\r\n") + END,
        PART.replace(b"\r\n\r\n", b"\r\n folded\r\n\r\n") + END,
        PART.replace(b"\r\n\r\n", b"\r\nX: --b\r\n\r\n") + END,
        PART.replace(b"gpt-5", b"\xff") + END,
        PART.replace(b"gpt-5", b"x" * 70_000) + END,
        b"--b\r\n\r\nx\r\n" + PART + END,
        b"--b\r\nX: " + b"x" * 9000 + b"\r\n\r\n" + PART + END,
        FILE * 1001 + PART + END,
    ],
)
def test_ambiguous_multipart(body: bytes, size: int) -> None:
    """A form that another parser might read differently is not read at all."""
    with pytest.raises(FormError):
        read(body, size)


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=b; boundary=c",
        "multipart/form-data; boundary=b; x=y",
        'multipart/form-data; boundary="b',
        "multipart/form-data; boundary=" + "b" * 71,
        "multipart/form-data; boundary=b, multipart/form-data; boundary=c",
    ],
)
def test_ambiguous_boundary(content_type: str) -> None:
    """A form whose boundary is unclear is not read."""
    with pytest.raises(FormError):
        read(PART + END, content_type=content_type)


@pytest.mark.parametrize(
    "content_type", ['multipart/form-data; boundary="b"', "multipart/form-data;charset=utf-8;boundary=b ;"[:-2]]
)
def test_boundary_spellings(content_type: str) -> None:
    """A boundary may be quoted, and a charset may accompany it."""
    assert read(PART + END, content_type=content_type) == {"model": "gpt-5"}


@given(st.binary(max_size=40), st.binary(max_size=40), st.integers(1, 50))
def test_multipart_finds_only_its_own_parts(before: bytes, after: bytes, size: int) -> None:
    """Whatever a file contains, the field beside it is read, or the form is refused."""
    files = [FILE.replace(b"RIFF", content) for content in (before, after)]
    try:
        values = read(files[0] + PART + files[1] + END, size)
    except FormError:
        assert b"--b" in before + after or b"--b" in b"\r\n" + before + b"\r\n" + after
    else:
        assert values == {"model": "gpt-5"}


@pytest.mark.parametrize(
    ("body", "values"),
    [
        (b"model=gpt-5&x=1", {"model": "gpt-5"}),
        (b"x=&model=gpt%2d5", {"model": "gpt-5"}),
        (b"x=1", {}),
        (b"model=a&model=a", {"model": "a"}),
    ],
)
def test_urlencoded(body: bytes, values: dict[str, str]) -> None:
    """Fields are decoded."""
    assert urlencoded_fields(body, NAMES) == values


@pytest.mark.parametrize(
    "body",
    [
        b"model=a&model=b",
        b"model",
        b"Model=a",
        b"model%00=a",
        b"model[]=a",
        b"model=%ff",
        b"\xff=a",
        b'{"model":"a"}',
    ],
)
def test_ambiguous_urlencoded(body: bytes) -> None:
    """A form that another parser might read differently is not read at all."""
    with pytest.raises(FormError):
        urlencoded_fields(body, NAMES)
