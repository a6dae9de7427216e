"""From what was measured to what it says: estimates, verdicts, recommendations, comparisons, the audit of claims."""
