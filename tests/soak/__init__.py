"""A long run at the machine's capacity with an Akto that comes and goes."""
