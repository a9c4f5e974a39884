"""TLS contexts, for connections to OpenAI and from clients."""
