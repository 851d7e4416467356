"""Checks of a linked program against the plan: addresses, code and data, stacks."""
