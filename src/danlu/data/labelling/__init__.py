"""People in the loop: which rows to show them, how tools write and read tasks, and what voters say together.

`choosing` picks rows (doubt x distance x density), `classifier` doubts while there is no trained model, `label_errors`
finds labels that are probably wrong, `functions` and `label_model` make labels out of rules or of several people,
`label_studio` and `superannotate` speak the tools' formats, `task` is what they have in common. Torch-free.
"""
