"""Readers and writers of other tools' formats: one file per format, the verbs read_* and write_*."""
