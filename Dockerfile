# The harness as a program: `docker build -t neuron-harness .`, then as docs/install.md says.
# With CUDA: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130, and `docker run --gpus all`.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
COPY . .
RUN python -m pip install --no-cache-dir build && python -m build --wheel --outdir /wheel

FROM python:${PYTHON}-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Extras, with commas between them: gguf,peft,ray.
ARG EXTRAS=gguf
COPY constraints.txt /tmp/constraints.txt
RUN python -m pip install --no-cache-dir -c /tmp/constraints.txt --index-url "${TORCH_INDEX}" \
        --extra-index-url https://pypi.org/simple torch
COPY --from=wheel /wheel /tmp/wheel
RUN python -m pip install --no-cache-dir -c /tmp/constraints.txt "$(echo /tmp/wheel/*.whl)[${EXTRAS}]" \
    && rm -r /tmp/wheel /tmp/constraints.txt \
    && mkdir -m 1777 /reports

# Nobody in particular, and any --user may take the place: what is written goes to /reports and to temporary files.
ENV HARNESS_REPORTS_DIR=/reports HF_HOME=/reports/.huggingface PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /reports
VOLUME ["/reports"]
ENTRYPOINT ["harness"]
CMD ["--help"]
