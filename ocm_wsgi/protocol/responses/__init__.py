"""The Responses API: model and tier of requests, outcome and usage of responses, rate limits."""
