"""A queue's folder over HTTP and MCP: jobs come in by requests, and workers of its own do them."""
