"""A stand-in for what LiteLLM calls: model providers, web search, vector stores, an agent and an MCP server."""
