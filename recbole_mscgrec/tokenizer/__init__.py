"""From features to semantic IDs, and pages that show which items share a code."""
