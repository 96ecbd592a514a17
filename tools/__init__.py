"""Commands (`python -m tools.NAME`) and what training, reports and sampling are made of."""
