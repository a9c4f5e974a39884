"""HTTP/1.1 messages: fields, targets, response heads, framing, content codings."""
