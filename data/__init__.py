"""Logs in, batches out: schema, days, cursor, stream, collate, id mapping, synthetic logs, importers.

arrays.py          Arrow arrays to numpy, without copies where the types allow it.
bad_rows.py        Rows that are not what the schema says: which, why, and the message about them.
batch.py           Rows to train together, and the cursor to resume from once they are trained.
collate.py         Arrow rows to one batch of tensors; what is wrong with a row is reported with its file and row, or the row is left out.
cursor.py          Where reading stands: four numbers that mean the same on every rank.
day_names.py       Names of days, and ranges of them in run files and on the command line.
days.py            Days: find the complete ones, check them before a row is trained, and write one so that half a day is never seen.
errors.py          The errors a user can fix: what is wrong, where, what was expected, what to do next.
features.py        The schema after fitting: which tables there are, how long, who reads them, and the order of everything in a batch.
frequencies.py     How often every value of a field occurs: the unigram that sampled softmaxes draw from and losses are compared with.
ids.py             Ids to table rows: hashed, from a vocabulary, as they are, or as a model admitted them. Row 0 is always the missing id's.
importers/         Turn the original files of public logs into day folders: one class a set, each reading its files as a stream.
inspection/        A first look at an unknown log: what its columns hold, how its files are read, and a schema to start from.
paths.py           Where files live: a local path or an object store, read and written through one door.
payloads.py        What events carry besides their ids: times, actions, sessions, vectors and further integers, one value for every event kept.
reader_columns.py  Columns that a file has in another form: lists in strings with a separator, and values in its path.
readers.py         Readers: a file's rows as Arrow record batches, from any row of any of its units.
row_hash.py        The evidence for exactly once: a hash of every row of a finished batch, summed by file.
schema.py          What a log means: which column is an id, a number, a list, a sequence, a vector, a label, a time.
seal.py            A JSON text that carries the digest of itself: what was altered since it was written is noticed when it is read.
statistics.py      What has to be known of the log before training: vocabularies, means and deviations, quantiles, and how often labels are 1.
stream.py          The stream: batches of one day, each row exactly once, from any cursor and for any number of ranks.
synthetic.py       A click log whose true click probability is known, so the best reachable score is known too.
times.py           Times as integers in one unit, so that two of them can be compared; and which unit integers are likely to count in.
yaml_document.py   One YAML file in, one frozen object out; every mistake names its line and the nearest valid key.
"""  # noqa: E501
