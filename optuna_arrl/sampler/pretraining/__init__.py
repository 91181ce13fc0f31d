"""How a policy is made: random tasks, whole episodes on them, search, imitation and PPO."""
