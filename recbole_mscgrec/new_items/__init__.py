"""Items that training never saw: encoders kept in an export, codes, generations."""
