"""From features to semantic IDs, and pages that show what they mean."""
