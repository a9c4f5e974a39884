"""One request to OpenAI, exactly as given."""
