"""Defences around the service: its files, its configuration, nginx, and dead addresses of OpenAI's."""

from __future__ import annotations

from tests.faults.mutations import Edit, Mutation

NGINX = "deploy/nginx.conf"
NGINX_TESTS = "clients/test_nginx_errors.py::"

STATE = (
    Mutation(
        "accounting/test_retention.py::test_retention_of_events",
        Edit("ocm_wsgi/accounting/queries.py", "db.event.delete().where(table.id.in_(oldest))", "oldest"),
    ),
    Mutation(
        "reporting/test_spreadsheet.py::test_a_formula_becomes_text",
        Edit("ocm_wsgi/reporting/spreadsheet.py", "[_cell(value) for value in row]", "row"),
    ),
    Mutation(
        "storage/test_files.py::test_make_private_folder",
        Edit("ocm_wsgi/storage/files.py", "make_private_folder(folder.parent)", "folder.parent.mkdir(parents=True)"),
    ),
)

CAUTIONS = (
    Mutation(
        "config/test_cautions.py::test_cautions[regular]",
        Edit("ocm_wsgi/config/cautions.py", " or _bits(text) < _MIN_TOKEN_BITS", ""),
    ),
    Mutation(
        "config/test_cautions.py::test_cautions[clear]",
        Edit("ocm_wsgi/config/cautions.py", 'parts.scheme == "http" and not', "not"),
    ),
    Mutation(
        "config/test_cautions.py::test_cautions[open-with-users]",
        Edit("ocm_wsgi/config/cautions.py", "if tls is None or not tls.enabled:", "if not service.users:"),
    ),
    Mutation(
        "cli/test_usage.py::test_client_config_without_tls",
        Edit("ocm_wsgi/cli/client.py", "if is_clear_text(url):", "if False:"),
    ),
)

NGINX_LINES = (
    Mutation(f"{NGINX_TESTS}test_errors_of_nginx[form-again]", Edit(NGINX, "        client_max_body_size 64k;\n", "")),
    Mutation(
        f"{NGINX_TESTS}test_versions_of_tls",
        Edit(NGINX, "TLSv1.2 TLSv1.3;\n    ssl_ecdh_curve", "TLSv1.2;\n    ssl_ecdh_curve"),
    ),
    Mutation(
        f"{NGINX_TESTS}test_without_tls",
        Edit(NGINX, "    server_tokens off;\n    # For a request that is not", "    # For a request that is not"),
    ),
)

INSTALLATION = (
    Mutation(
        "config/test_value_files.py::test_systemd_credentials",
        Edit("ocm_wsgi/config/value_files.py", "if not folder:", "if True:"),
    ),
    Mutation(
        "cli/test_deploy.py::test_usage_errors",
        Edit("ocm_wsgi/cli/deploy.py", "if not is_host_name(name):", "if False:"),
    ),
    Mutation(
        "deployment/test_rendering.py::test_program_that_the_unit_could_not_start",
        Edit(
            "ocm_wsgi/deployment/rendering.py", r'if not re.fullmatch(r"[\w./+@-]+", str(path), re.ASCII):', "if False:"
        ),
    ),
    Mutation(
        "clients/test_caddy.py::test_forwarded_fields_forged",
        Edit("deploy/Caddyfile", "\t\theader_up -Forwarded\n", ""),
    ),
)

DEAD_ADDRESSES = (
    Mutation(
        "upstream/test_dead_address.py::test_requests_and_handshakes[https-request]",
        Edit("ocm_wsgi/upstream/connections.py", "_HTTPSConnection(HappyEyeballsMixin, ", "_HTTPSConnection("),
    ),
    Mutation(
        "upstream/test_dead_address.py::test_refresh[https]",
        Edit("ocm_wsgi/oauth/http_client.py", "_HTTPSConnection(HappyEyeballsMixin, ", "_HTTPSConnection("),
    ),
    Mutation(
        "checks/test_dead_addresses.py::test_dead_addresses[dead1]",
        Edit("ocm_wsgi/checks/dead_addresses.py", "error is not None", "False"),
    ),
)

SURROUNDINGS_MUTATIONS = STATE + CAUTIONS + NGINX_LINES + INSTALLATION + DEAD_ADDRESSES
