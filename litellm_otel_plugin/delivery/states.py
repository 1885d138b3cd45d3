"""What is known of a destination."""

UNPROVEN = "unproven"  # not heard of yet
DELIVERING = "delivering"
REJECTING = "rejecting"  # it answers, and took nothing of the last batch
FAILING = "failing"
REFUSED = "refused"  # with these credentials: probed once a minute
