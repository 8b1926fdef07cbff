"""A guardrail gateway: meters, caps and stops agents on the LLM wire."""

__version__ = "0.1.0"
