"""The users of the service, their bearer tokens and their sessions."""
