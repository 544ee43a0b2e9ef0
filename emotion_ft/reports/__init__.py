"""Files that people read: tables, plots, the audit, cards and the page of a run."""
