"""gunicorn: its hooks, our worker class, the listening socket."""
