"""L2: what drivers share: the life of an instance behind the agent, its cgroup, the bubblewrap jail."""
