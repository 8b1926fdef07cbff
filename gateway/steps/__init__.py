"""The parts of one step's life: `gateway.pipeline` goes through them from top to bottom."""
