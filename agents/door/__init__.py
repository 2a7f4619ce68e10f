"""The door: the only part of the coordinator that the network reaches. It holds no key but its own host key."""
