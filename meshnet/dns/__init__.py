"""What a task's 127.0.0.11 answers: a core of plain values (names, query, zone, answer) and one server.

A zone says what one task can see. `answer` turns a query and a zone into a reply, or says that somebody
else must be asked; `server` moves the bytes and `forward` does the asking. The sockets live inside the task's
namespace on RESOLVER_PORT, and `bpf/lo.c` steers 127.0.0.11:53 to them, so that a task may bind *:53 itself.
"""

RESOLVER_ADDRESS = "127.0.0.11"
"""The name server in every task's resolv.conf; the address that Swarm uses."""

RESOLVER_PORT = 61053
"""The port where the resolver's sockets are bound inside a task's namespace (UDP and TCP), host order.

The same number stands in `bpf/lo.c`. It lies above Linux's default ephemeral range; since that range can be
widened, whoever makes the namespace also puts it in net.ipv4.ip_local_reserved_ports.
"""
