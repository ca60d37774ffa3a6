# `batch`: OpenAI batch lines in and out, killed and continued.
set -u
. tests/lib.sh

exe=$(cpu_executable) || { not_ok compile "exit code $?"; exit 1; }
limited 300 python3 tests/check_batch.py "$exe"
