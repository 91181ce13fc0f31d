"""How the shipped policy is made: random tasks, whole episodes on them, PPO over the episodes."""
