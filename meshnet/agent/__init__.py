"""One node: tasks, data path, DNS and gossip, composed into a process that runs until it is stopped."""
