"""``flask ocm``: the owner's command line. Needs the configuration and the state, but no server or Flask app."""

from __future__ import annotations

from ocm_wsgi.cli.group import LazyGroup

__all__ = ["COMMANDS", "HELP", "group", "ocm"]

#: The import path of each command. Commands whose module is not installed are left out.
COMMANDS = {
    "add-user": "ocm_wsgi.cli.users:add_user",
    "list-users": "ocm_wsgi.cli.users:list_users",
    "show-user": "ocm_wsgi.cli.users:show_user",
    "update-user": "ocm_wsgi.cli.users:update_user",
    "rotate-token": "ocm_wsgi.cli.users:rotate_token",
    "remove-user": "ocm_wsgi.cli.users:remove_user",
    "client-config": "ocm_wsgi.cli.client:client_config",
    "usage": "ocm_wsgi.cli.usage:usage",
    "credentials": "ocm_wsgi.cli.credentials:credentials",
    "pause": "ocm_wsgi.cli.pausing:pause",
    "resume": "ocm_wsgi.cli.pausing:resume",
    "status": "ocm_wsgi.cli.status:status",
    "backup": "ocm_wsgi.cli.backup:backup",
    "restore": "ocm_wsgi.cli.backup:restore",
    "export": "ocm_wsgi.cli.transfer:export",
    "import": "ocm_wsgi.cli.transfer:import_",
    "login": "ocm_wsgi.cli.login:login",
    "logout": "ocm_wsgi.cli.login:logout",
    "check": "ocm_wsgi.cli.check:check",
    "deploy": "ocm_wsgi.cli.deploy:deploy",
    "completion": "ocm_wsgi.cli.completion:completion",
    "demo": "ocm_wsgi.cli.demo:demo",
}

#: The help of the group.
HELP = """Manage the OpenAI Codex Multiplexer: its users, their limits, and their usage.

    Uses the same configuration as the service: the file that OCM_CONFIG names, or ./ocm.json. The service does not
    have to be running or be restarted: changes apply from its next request.

    \b
    Examples:
      ocm add-user alice --limit "30% per week"
      ocm client-config alice
      ocm usage --by user --since 7d
      ocm status
    """

ocm = LazyGroup("ocm", COMMANDS, help=HELP)
