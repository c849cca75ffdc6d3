"""What a machine is, and what it lacks: facts are gathered, then pure functions judge them."""
