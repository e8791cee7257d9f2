"""The ranks and the tables that are sharded over them.

comm_codecs.py         What ranks send each other: looked-up vectors and their gradients, in fewer bytes if asked.
cpu_adam.py            Adam for embedding tables on CPU: what FBGEMM has on CUDA only, inside the same TorchRec kernels.
cpu_fp16.py            Tables of half precision on CPU: rounded at random, so that small steps count, and no row touched before it is trained.
cpu_kernels.py         Embedding tables on CPU that learn by a rule of ours: FBGEMM's memory and layout, TorchRec's kernels, our backward.
hardware.py            What a machine can hold and how fast it is: data sheets for plans on paper, and the memory that programs may take here.
initial_values.py      The initial values of embedding tables: from (seed, table, row), the same under any sharding.
managed_ids.py         Managed tables over the ranks: raw ids in, rows out; rows that change hands start over; what a day made of the map.
planner.py             TorchRec's planner for a job or on paper: who holds which shard.
saved_plan.py          Sharding plans in a file that a job is held to.
shard.py               Spread the embedding tables over the ranks: each with its optimizer and initial values, the same under any plan.
sharded_embeddings.py  Embedding collections over the ranks: TorchRec's, with what laws 2 and 4 need and it cannot do.
world.py               The ranks of a run: who am I, how many are we, how do we talk. In JSON and tensors: nothing is pickled.
"""  # noqa: E501
