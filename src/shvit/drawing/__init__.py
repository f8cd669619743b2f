"""Where pixels come from and where results go."""
