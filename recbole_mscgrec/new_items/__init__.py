"""New items, which training never saw: encoders kept in an export, codes, generations."""
