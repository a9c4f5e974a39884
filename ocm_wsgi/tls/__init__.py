"""TLS contexts, for OpenAI and for clients."""
