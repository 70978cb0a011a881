"""The only code that talks to the kernel: namespaces, netlink, BPF, nftables, sysctls and what they can do here."""
