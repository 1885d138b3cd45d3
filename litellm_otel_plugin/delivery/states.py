"""What is known of a destination."""

UNPROVEN = "unproven"  # not heard of yet
DELIVERING = "delivering"
FAILING = "failing"
REFUSED = "refused"  # with these credentials: probed once a minute
