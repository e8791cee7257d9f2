"""A first look at an unknown log: what its columns hold, how its files are read, and a schema to start from.

facts.py              What was counted of a column of an unknown log, and whether it holds times.
inspect.py            What is in a log: its days, its columns, how many values they have, and a schema to start from.
names.py              What names of columns say: patterns of names in lower case, with _ between their words.
reader_suggestion.py  How files of an unknown log are best read: their delimiter, a missing header line, strings that are lists.
schema_suggestion.py  What the columns of an unknown log may mean: guesses with their reasons, and a schema to start from.
tally.py              Counting a column of an unknown log batch by batch, in bounded memory.
"""
