"""Tests of single modules, without LiteLLM and without a container."""
