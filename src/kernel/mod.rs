//! Linux as we use it: /proc, system calls without a wrapper, feature probes.
