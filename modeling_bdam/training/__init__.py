"""Everything that only training needs: the trainer, its arguments, sampling, task weighting and the model card."""
