"""Files that people read: tables, plots, audits, cards and the page of a run."""
