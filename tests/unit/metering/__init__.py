"""Tests of prices, usage, token counts and estimates."""
