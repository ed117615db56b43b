"""The demo: six requests through the guarded proxy, and what each side of it got."""
