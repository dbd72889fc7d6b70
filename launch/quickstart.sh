#!/usr/bin/env bash
# From nothing to a trained model: environment, drawn sample clips, shards, training, report.
# What is already there is reused.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/venv.sh

make_venv .venv preprocess,train
python=.venv/bin/python
sample=data/sample

echo; echo "1/3 Drawing the sample corpus"
"$python" -m preprocess.sample_corpus --out_dir="$sample/corpus"

echo; echo "2/3 Building its shards"
"$python" -m preprocess.build_tfrecords --ravdess_dir="$sample/corpus/ravdess" \
  --crema_d_dir="$sample/corpus/crema_d" --out_dir="$sample/tfrecords"

echo; echo "3/3 Training on them"
"$python" train.py --flagfile=tcn.flags --data_dir="$sample/tfrecords" \
  --model_dir=runs/quickstart --epochs=12 "$@"
