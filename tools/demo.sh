#!/usr/bin/env bash
# The main job on built-in images, offline: two small searches, the ensemble, its report. `make demo` runs it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Small enough for five minutes on two cores, large enough that tuning and voting show a difference.
readonly IMAGES=360 SIZE=96 TRIALS=3 EPOCHS=4
# A folder of its own: the demo must neither mix with real studies nor open their sealed test split.
readonly PYTHON=.venv/bin/python DATA=demo/images STUDIES=demo/studies

run() {
    printf '\n$ %s\n' "$*"
    "$@"
}

efficientnet=efficientnet_b3
if ! "$PYTHON" -m core.backbones --check "$efficientnet"; then
    efficientnet=tf_efficientnet_lite0
    echo "The pretrained weights of efficientnet_b3 cannot be had here; the demo takes $efficientnet instead."
fi

[[ -e $DATA/demo.json ]] || run "$PYTHON" -m core.demo "$DATA" --images "$IMAGES"
for arch in mobilenet "$efficientnet"; do
    run "$PYTHON" -m search.run --arch "$arch" --data "$DATA" --studies "$STUDIES" --trials "$TRIALS" --epochs "$EPOCHS" \
        --image-size "$SIZE"
done
run "$PYTHON" -m ensemble.build "$STUDIES"

cat <<END

The report:    $STUDIES/ensemble/report.html
The dashboard: .venv/bin/optuna-dashboard $STUDIES/journal.log --artifact-dir $STUDIES/artifacts --host 127.0.0.1
Your images:   .venv/bin/python -m search.run --arch mobilenet --trials 50 --data FOLDER
END
