"""An HTTP service for one index; its guard, addresses and pictures are also those of the demo."""
