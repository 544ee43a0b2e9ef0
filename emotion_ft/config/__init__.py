"""The configuration: what can be set, and how a YAML file and the command line fill it."""
