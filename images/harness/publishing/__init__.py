"""A job's result or failure goes to a place by itself, where nobody on the host waits for it."""
