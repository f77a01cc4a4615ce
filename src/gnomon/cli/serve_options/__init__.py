"""The options of `gnomon serve`: three tables (ours, infinity's, TEI's), and how they become `ServeOptions`.

rows      what a row of a table is
readers   text of a value -> value
own, infinity, tei   the tables
collect   command line and environment -> settings
build     settings -> ServeOptions
checks    what is refused before a model is read
probe     asks a running server whether it is ready
listing   the tables as text
"""
