"""Which backends exist, and how they are told apart."""
