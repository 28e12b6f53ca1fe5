"""Where each benchmark keeps its images, people, cameras, outfits and captions: one short file each."""
