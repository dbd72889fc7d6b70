#!/usr/bin/env bash
# From nothing to a trained model: environment, drawn sample clips, shards, training, report.
# What is already there is reused. Arguments go to train.py, e.g. --modalities=audio.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/venv.sh

# Another size of the sample corpus, e.g. SAMPLE_FLAGS='--num_actors=5 --clips_per_actor=6'.
read -r -a sample_flags <<<"${SAMPLE_FLAGS:-}"

make_venv .venv preprocess,train
python=.venv/bin/python
sample=data/sample

printf '\n1/3 Drawing the sample corpus\n'
"$python" -m preprocess.sample_corpus --out_dir="$sample/corpus" "${sample_flags[@]}"

printf '\n2/3 Building its shards\n'
"$python" -m preprocess.build_tfrecords --ravdess_dir="$sample/corpus/ravdess" \
  --crema_d_dir="$sample/corpus/crema_d" --out_dir="$sample/tfrecords"

printf '\n3/3 Training on them\n'
"$python" train.py --flagfile=tcn.flags --data_dir="$sample/tfrecords" \
  --model_dir=runs/quickstart --epochs=20 "$@"
