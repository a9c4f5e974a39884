"""OpenAI's OAuth issuer."""
