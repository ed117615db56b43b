#!/bin/sh
# The stand-in's counterpart of LiteLLM's own entrypoint: arguments go to the proxy command.
exec litellm "$@"
