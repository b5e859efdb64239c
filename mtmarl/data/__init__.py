"""Offline data: vaults on disk, task-balanced windows of them, and the sources that feed the trainer."""
