"""From the tasks that frames want to logits, shared segments once."""
