"""What is measured, drawn and written of a finished scene."""
