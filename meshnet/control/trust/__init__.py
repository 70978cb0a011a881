"""Who belongs to a swarm: its certificate authority, join tokens, node certificates and the key of its gossip."""
