"""A client of OpenAI's OAuth issuer."""
