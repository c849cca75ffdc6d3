docker run -d --gpus all --ipc=host -p 30000:30000 \
  -v ~/.cache/huggingface:/root/.cache/huggingface \
  --env "HF_TOKEN=$HF_TOKEN" -e SGLANG_NO_SUCH_SWITCH=1 \
  lmsysorg/sglang:v0.5.10-cu126 \
  python3 -m sglang.launch_server --model-path deepseek-ai/DeepSeek-V3 \
    --tp 8 --enable-ep-moe --quantization fp8 \
    --mem_fraction_static 0.85 --max-micro-batch-size 4 \
    --host 0.0.0.0 --port 30000
