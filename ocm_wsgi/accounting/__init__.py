"""Each turn, priced and recorded once; sums, history, export."""
