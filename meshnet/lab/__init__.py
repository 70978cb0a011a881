"""Many nodes in network namespaces on one machine: lab files, and bringing labs up and down."""
