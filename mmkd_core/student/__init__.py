"""The student: one open_clip model, its tokenizer, its first training and its export."""
