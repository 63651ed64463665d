"""The command line: everything that speaks to a person."""
