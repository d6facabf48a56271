"""Ways to pretrain, compared: arms, runs, statistics and reports."""
