"""``python -m ocm_wsgi.simulator`` as a separate process."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import trustme

from tests.simulator.simulator_clients import owner_fields

COMMAND = [sys.executable, "-m", "ocm_wsgi.simulator"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_serves_until_interrupted(tmp_path: Path, number: signal.Signals) -> None:
    """The command prints its URL, writes a valid and private credential, and ends cleanly on a signal."""
    credential_file = tmp_path / "auth.json"
    command = [*COMMAND, "--credential-file", str(credential_file), "--token-lifetime", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        try:
            assert url.startswith("http://127.0.0.1:")
            assert credential_file.stat().st_mode & 0o777 == 0o600
            fields = owner_fields(json.loads(credential_file.read_text()))
            request = urllib.request.Request(f"{url}/backend-api/codex/models", headers=fields)
            with urllib.request.urlopen(request, timeout=10) as response:
                assert response.status == 200
        finally:
            process.send_signal(number)
            rest, errors = process.communicate(timeout=10)
    assert (process.returncode, rest, errors) == (0, "", "")


def test_command_serves_tls(tmp_path: Path) -> None:
    """With a certificate and a key the command serves TLS."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    chain, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    certificate.private_key_pem.write_to_path(str(key))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    command = [*COMMAND, "--tls-cert", str(chain), "--tls-key", str(key)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        try:
            with urllib.request.urlopen(f"{url}/_simulator/state", timeout=10, context=context) as response:
                assert json.load(response)["url"] == url
        finally:
            process.terminate()
            process.wait(10)


def test_help_lists_the_options() -> None:
    """``--help`` names every option."""
    shown = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True, timeout=10).stdout
    for option in ("--port", "--credential-file", "--tls-cert", "--tls-key", "--token-lifetime", "--interval"):
        assert option in shown
