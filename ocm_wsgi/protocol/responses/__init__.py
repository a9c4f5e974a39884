"""The Responses API: what a request asks for, and what a response says it used."""
