"""The shelf of text recognition: who reads scanned and garbled pages."""
