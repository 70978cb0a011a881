"""Programs that the built-in images run inside a task. They import only what Python itself has compiled in."""
