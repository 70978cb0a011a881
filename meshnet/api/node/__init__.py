"""The Docker Engine API that each node's agent serves: containers, images, volumes, logs and events of the node.

What concerns the swarm is passed on to the manager process of the same node; a worker refuses it as Swarm's workers do.
"""
