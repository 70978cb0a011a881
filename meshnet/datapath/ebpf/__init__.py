"""The eBPF data path: overlay, VIPs and published ports by programs, everything else by what the kernel has."""
