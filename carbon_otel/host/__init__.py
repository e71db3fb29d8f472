"""The processes of this host and this process's share of it: cgroup, process tree, membership, shares by use."""
