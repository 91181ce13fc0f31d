"""How a policy is made: random tasks, whole episodes on them, a search and PPO over these."""
