"""The console script `bdam`. Here alone the data pipeline and the model meet."""
