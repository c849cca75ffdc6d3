"""Facts of this machine. What cannot be found out is said to be unknown, and is no error."""
