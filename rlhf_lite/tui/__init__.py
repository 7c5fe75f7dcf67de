"""The terminal app. It draws and asks; what it starts, reads and stores is the root's, and torch runs in children."""
