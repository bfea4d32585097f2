"""`make demo`: the talk's example on real servers, healed as one looks on; then it stays up to play with."""
