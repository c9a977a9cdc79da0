"""The experiments that readers of the paper ask for, as data: which runs a study is made of, and what it found."""
