"""The sections of a policy file, by what they are about. `models.py` has them together."""
