"""Requests to OpenAI, sent exactly as given."""
