# The image of `genctr schedule --as kubernetes` and of the TorchX components:
#
#     docker build --tag genctr .                        for CPUs
#     docker build --tag genctr --build-arg DEVICE=cuda .   for NVIDIA GPUs; the node has the driver
#
# A job finds its run file in the folder it starts in, /job: build an image of your own on top of this one,
#
#     FROM genctr
#     COPY run.yaml schema.yaml /job/
#
# or mount them there. Logs, run folders and bundles are in an object store, or on volumes that every pod mounts.
FROM python:3.12-slim

# OpenMP is not in the wheels of torch and FBGEMM.
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/genctr
COPY pyproject.toml README.md LICENSE ./
COPY tools tools
COPY data data
COPY models models
COPY pipeline pipeline
COPY launch launch

# `genctr doctor` needs a machine with a GPU to load the CUDA build.
ARG DEVICE=cpu
RUN if [ "$DEVICE" = cpu ]; then shim=./tools/fbgemm-gpu-shim; fi; \
    pip install --no-cache-dir --use-pep517 $shim --editable . \
    && if [ "$DEVICE" = cpu ]; then genctr doctor; fi

# Threads that spin while they wait make ranks that share processors many times slower.
ENV OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 1000 genctr && mkdir /job /runs && chown genctr /job /runs
USER genctr
WORKDIR /job
CMD ["genctr", "--help"]
