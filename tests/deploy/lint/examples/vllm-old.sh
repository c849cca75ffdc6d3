#!/bin/bash
# Started by hand on the eight-card machine; don't change the port.
set -e
export VLLM_USE_V1=1
export VLLM_ATTENTION_BACKEND=FLASHMLA
export HF_TOKEN=hf_kWq81LmZpRtYbVnCxSdAeGh

vllm serve deepseek-ai/DeepSeek-R1 \
    --tensor-parallel-size 8 \
    --enable-reasoning \
    --reasoning-parser deepseek_r1 \
    --max-model-len 32k \
    --swap-space 16 \
    --disable-log-requests \
    --disable-frontend-multiprocessing \
    --trust-remote-code \
    --gpu-mem 0.9 \
    --host 0.0.0.0 --port "${PORT:-8000}" \
    --task generate 2>&1 | tee vllm.log
