"""`make demo`: the talk's example on real servers, healed while you watch; then it stays up to play with."""
