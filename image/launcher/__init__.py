"""What runs before LiteLLM: checks the environment, injects the callback into the config, hands over."""
