"""Connections to registries: the only code that opens sockets."""
