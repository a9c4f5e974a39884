"""Moving the bytes of open responses in one event loop, instead of in a thread for each.

``framing`` reads bodies off the wire and puts them back on it, pure. ``peer`` is a socket without waiting, ``stream``
one response on its way, ``loop`` what serves all of them, ``lingering`` how a connection is closed without hurry.
Nothing here knows of gunicorn or Flask; ``worker.py`` brings them together.
"""
