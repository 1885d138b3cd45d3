"""What is known of one request, and what of it is stamped on the SERVER span."""
