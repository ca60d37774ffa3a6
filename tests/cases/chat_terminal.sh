# `chat` in a terminal: editing, history, Ctrl-C, commands.
set -u
. tests/lib.sh

exe=$(cpu_executable) || { not_ok compile "exit code $?"; exit 1; }
limited 200 python3 tests/check_chat.py "$exe"
