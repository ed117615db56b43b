"""A stand-in for model providers: OpenAI chat, completions, embeddings and Responses, Anthropic messages."""
