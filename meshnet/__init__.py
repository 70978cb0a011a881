"""meshnet: Docker Swarm's networking as a data plane for one machine or many."""
