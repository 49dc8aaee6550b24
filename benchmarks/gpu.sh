#!/usr/bin/env bash
# Measures everything that the table of speeds on a GPU shows: this project beside timm and transformers with torch.
#
#   bash benchmarks/gpu.sh [FOLDER]       # about 8 minutes; FOLDER is benchmarks/results/gpu-DATE if left out
#   TINY=1 bash benchmarks/gpu.sh         # a try with tiny models, on any machine, in two minutes
#
# Needs Python with this project's dependencies, JAX for the GPU, and the extra `parity` (torch, timm, transformers);
# the project itself need not be installed. Writes into FOLDER:
#
#   models.csv       a row for each model and side (benchmarks/README.md explains the columns)
#   profile.csv      the kernels of our train steps and inference, by kind
#   input.csv        images a second and core, if time is left
#   environment.txt  versions, drivers and processors
#   log.txt          what was printed: progress, and the table at the end
#
# The most important rows come first, and every row is written when it is measured, so that a run that is cut off keeps
# what it has. Variables: PYTHON [python3], MINUTES [8], GROUP (rows that compile at once) [2], COMMIT (to record where
# there is no git), and OPTIONS, which are passed to benchmarks.models, such as "--set attention_kernel=cudnn" or, on a
# small GPU, "--fresh --batch 32".
set -uo pipefail
cd "$(dirname "$0")/.." || exit
python=${PYTHON:-python3} minutes=${MINUTES:-8} out=${1:-benchmarks/results/gpu-$(date -u +%Y-%m-%d)}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
mkdir -p "$out" || exit
ends=$((SECONDS + minutes * 60))

{
  date -u
  git describe --always --dirty 2>/dev/null || echo "commit ${COMMIT:-unknown}"
  "$python" --version
  nvidia-smi 2>/dev/null || echo "no nvidia-smi"
  lscpu 2>/dev/null | grep -E '^(Model name|CPU\(s\)|Thread|Socket)'
  free -g 2>/dev/null | head -2
  "$python" -m pip list --format=freeze 2>/dev/null
} > "$out/environment.txt" 2>&1

read -ra models <<< "${MODELS:-vit:B/16 timesformer:B/16,divided_space_time tnt:S/16 vit:L/16 \
timesformer:B/16,joint_space_time timesformer:B/16,space_only vit:S/16}"
what=(train inference)
options=(--group "${GROUP:-4}")
input=(--images 512 --turns 2)
if [ -n "${TINY:-}" ]; then
  models=("${models[@]:0:2}") what=(train) options=(--tiny)
  input=(--tiny --formats jpeg --chains crop)
fi

# shellcheck disable=SC2086  # OPTIONS are words
timeout --kill-after=10 $((minutes * 60 - 15)) "$python" -m benchmarks.models \
  --models "${models[@]}" --what "${what[@]}" --dtypes bfloat16 --minutes "$(awk "BEGIN { print $minutes - 0.5 }")" \
  --csv "$out/models.csv" --profile "$out/profile.csv" "${options[@]}" ${OPTIONS:-} 2>&1 | tee "$out/log.txt"
status=${PIPESTATUS[0]}

left=$((ends - SECONDS - 5))
if [ "$left" -gt 40 ]; then
  timeout "$left" "$python" -m benchmarks.input --csv "$out/input.csv" "${input[@]}" 2>&1 | tee -a "$out/log.txt"
fi
echo "results are in $out"
[ "$status" -eq 124 ] || exit "$status"
