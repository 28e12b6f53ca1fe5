"""A search page for one index, served by gradio."""
