"""`dapo data`: looks at datasets, writes cleaned copies of them, and generates rows."""
