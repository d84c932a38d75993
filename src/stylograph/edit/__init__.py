"""Ways to make an `Edit` out of a sentence."""
