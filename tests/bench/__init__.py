"""What the guard costs: the guarded image beside the one it is made from, under load. `make bench` runs it."""
