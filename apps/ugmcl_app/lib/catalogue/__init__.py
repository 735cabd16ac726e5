"""catalogue: what is known of a project's cases and labels, in a database beside its files.

One module writes each table: `folder_files` what the folder holds, `cases` the cases, `labels` the history of
labels, `lib.scores` the scores. `database` opens SQLite or PostgreSQL, `schema` says what is in it,
`label_store` keeps the bytes of every label there ever was, and `adoption` takes over what earlier versions
and the stock server kept in JSON files.
"""
