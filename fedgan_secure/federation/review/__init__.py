"""What a hospital compares with its own knowledge before it signs: sums, models, words, transcripts, manifests."""
