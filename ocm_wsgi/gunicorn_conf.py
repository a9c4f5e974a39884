"""gunicorn's settings for this service. Flags and GUNICORN_CMD_ARGS override them.

Executed in gunicorn's master at the start and again at each HUP, for which :mod:`ocm_wsgi.server.hooks` forgets this
module. The address, TLS and everything specific to the service come from its configuration (docs/configuration.md).
"""

from __future__ import annotations

import os

from ocm_wsgi.server import hooks
from ocm_wsgi.telemetry import multiprocess

hooks.reload()
multiprocess.prepare()

bind = [hooks.bind()]
certfile = hooks.certfile()
ssl_context = hooks.ssl_context

logger_class = hooks.Logger

worker_class = hooks.worker_class()
workers = hooks.workers()
# A thread handles a request until upstream has responded; the event loop relays the response (docs/relay.md).
threads = 128
# Clients of one worker. Their distribution is random, so each worker must be able to serve most of them.
worker_connections = 4096
# Longer than nginx keeps an idle connection to us (60 s), so that we never close first.
keepalive = 75
# For the worker's heartbeat, not for a request.
timeout = 60
# A turn can last for minutes; TERM and HUP let it finish.
graceful_timeout = 120
if os.path.isdir("/dev/shm"):  # noqa: S108 - the heartbeat files; on a disk that stalls they would kill the workers
    worker_tmp_dir = "/dev/shm"  # noqa: S108

# gunicorn_h1c, which "auto" prefers where it is installed, accepts bare line feeds and folded fields.
http_parser = "python"
limit_request_line = 8190  # gunicorn's maximum
# x-codex-turn-metadata is kilobytes long. gunicorn buffers up to fields times size before the client is authenticated.
limit_request_field_size = 65536
limit_request_fields = 64

# Of the fields with an underscore, exactly the three that Codex sends pass, from any peer. gunicorn drops such
# names (header_map) except those in forwarder_headers, and these only from peers in forwarded_allow_ips
# (gunicorn/http/message.py, _peer_trusted_for_forwarded and _apply_header_policy). The default forwarder_headers,
# SCRIPT_NAME and PATH_INFO, would let a client rewrite the path. Trusting every peer permits nothing else:
# such a peer could only set the scheme as well, and secure_scheme_headers names no field for that.
forwarded_allow_ips = "*"
forwarder_headers = "SESSION_ID,CONVERSATION_ID,THREAD_ID"
secure_scheme_headers: dict[str, str] = {}

# On by default, at one path for all instances of a user: a second instance would replace the first one's.
control_socket_disable = True

on_starting = hooks.on_starting
when_ready = hooks.when_ready
on_reload = hooks.on_reload
pre_request = hooks.pre_request
post_fork = hooks.post_fork
post_worker_init = hooks.post_worker_init
child_exit = hooks.child_exit
on_exit = hooks.on_exit
