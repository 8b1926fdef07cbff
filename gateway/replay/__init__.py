"""What was on record played again: recorder, backtests, rehearsals, a policy's own tests."""
