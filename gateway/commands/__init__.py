"""Commands of `gateway` that have a room of their own; `gateway.cli` puts them together."""
