"""``ocm deploy``: prints the files that other programs need, such as nginx and systemd."""

from __future__ import annotations

import re
import sysconfig
from pathlib import PurePath

import click

from ocm_wsgi.deployment import KINDS, Installation, is_host_name, render

#: The kinds that contain the public host name.
_NAMED = ("nginx", "caddy")
_ADDRESS = re.compile(r"(?:[\w.-]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}", re.ASCII)


def _host_name(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    name = value.lower().rstrip(".")
    if not is_host_name(name):
        raise click.BadParameter(f"{value!r} is not a host name such as ocm.example.org.")
    return name


def _address(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    if not _ADDRESS.fullmatch(value) or int(value.rpartition(":")[2]) > 65535:
        raise click.BadParameter(f"{value!r} is not an address such as 127.0.0.1:8080.")
    return value


@click.command("deploy", short_help="Print a file for nginx, systemd and others.")
@click.argument("kind", metavar="KIND", type=click.Choice(list(KINDS)))
@click.option("--name", callback=_host_name, help="The service's public host name; required for nginx and caddy.")
@click.option(
    "--address",
    default="127.0.0.1:8080",
    show_default=True,
    callback=_address,
    help="Where the service listens, for nginx, caddy, socket and prometheus.",
)
@click.option(
    "--program",
    type=click.Path(path_type=PurePath),
    help="The path of ocm on the server, for systemd and command. Default: this one.",
)
def deploy(kind: str, name: str | None, address: str, program: PurePath | None) -> None:
    """Print the file of a KIND for another program, with the names of this installation filled in.

    \b
    nginx                TLS in front of the service: /etc/nginx/conf.d/ocm.conf
    caddy                the same for Caddy: /etc/caddy/Caddyfile
    compose              the service and Caddy in containers: compose.yaml
    compose-environment  its settings: .env
    systemd              the unit, for /etc/systemd/system/ocm.service
    socket               an optional unit that holds the listening socket
    environment          the environment of both, for /etc/ocm/ocm.env
    command              `ocm` as the service's user, for /usr/local/bin/ocm
    logrotate            for a service that logs to a file
    prometheus           alerts
    grafana              a dashboard of Grafana

    \b
    Examples:
      ocm deploy nginx --name ocm.example.org > /etc/nginx/conf.d/ocm.conf
      ocm deploy systemd > /etc/systemd/system/ocm.service
    """
    if kind in _NAMED and name is None:
        raise click.UsageError(f"{kind} needs the service's public host name: --name ocm.example.org")
    if kind not in _NAMED and name is not None:
        raise click.UsageError(f"{kind} contains no host name; leave out --name.")
    this = PurePath(sysconfig.get_path("scripts"), "ocm")
    click.echo(render(kind, Installation(name, address, program or this)), nl=False)
