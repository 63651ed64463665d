"""The networks and their flat vectors."""
