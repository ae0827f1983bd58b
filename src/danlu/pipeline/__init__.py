"""The verbs: one file and one function each, `verb(run, ...) -> noun`. Used through `danlu.train(run)` and the CLI."""
