"""One fetch: a thread, a deadline, what it has open, whom it asks, and what their answers mean."""
