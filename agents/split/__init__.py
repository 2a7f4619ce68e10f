"""Split learning between two rooms: what Alice and the judge say to each other over a channel, and what they keep."""
